"""Damaged files and crash points: a seeded sample of what docs/reliability.md counts."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "e2e"))

import cut_down  # noqa: E402

pytestmark = pytest.mark.e2e


def script(name: str, *arguments: str) -> str:
    """What a script of this folder prints; it must find nothing wrong."""
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, env=cut_down.environment(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_a_damaged_file_is_noticed_or_harmless() -> None:
    assert "30 cases, 0 wrong" in script("run.py", "--cases", "30", "--seed", "3")


@pytest.mark.check
def test_a_crash_at_any_point_loses_no_bit() -> None:
    assert "4 cases, 0 wrong" in script("crash.py", "--sample", "4", "--seed", "2")


@pytest.mark.check
def test_a_kill_at_any_time_loses_no_bit(tmp_path: Path) -> None:
    assert "2 cases, 0 wrong" in script("crash.py", "--kills", "2", "--keep", str(tmp_path / "kills"))
    assert "4 cases, 0 wrong" in script("crash.py", "--kills", "4", "--keep", str(tmp_path / "kills"))


@pytest.mark.check
def test_a_crash_without_a_checkpoint_loses_no_bit() -> None:
    assert "4 cases, 0 wrong" in script("crash.py", "--sample", "4", "--set", "training.save_steps=1000")
