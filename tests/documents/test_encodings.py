"""Text is UTF-8 whatever the locale says: every file that the package opens as text names its encoding."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def unnamed(*places: Path) -> str:
    """What ruff's preview rule on encodings finds; the rule is asked here, because preview would change other rules too."""
    rule = ["check", "--isolated", "--preview", "--select", "PLW1514", "--output-format", "concise", "--quiet", "--no-cache"]
    return subprocess.run(
        [sys.executable, "-m", "ruff", *rule, *map(str, places)], capture_output=True, text=True, check=False
    ).stdout


def test_every_text_file_is_opened_with_an_encoding() -> None:
    assert unnamed(ROOT / "spac_repro", ROOT / "launchers") == ""


def test_a_file_that_is_opened_without_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("text = open('a').read()\n", encoding="utf-8")
    assert "wrong.py:1" in unnamed(tmp_path)


def test_a_locale_without_the_character_is_no_crash() -> None:
    command = [sys.executable, "-P", "-m", "spac_repro", "recipes", "check", "no-π-here.yaml"]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert b"no-\\u03c0-here.yaml" in done.stderr
