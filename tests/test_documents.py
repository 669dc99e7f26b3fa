"""Every command in README and docs: parsed here, and run by a test unless it says `not run by tests` and why."""

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from spac_repro import cli
from spac_repro.cli.root import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Commands that other tests run, with the folder or file that does. `make check` and hands run `make`, `bench/`, `experiments/`.
ELSEWHERE = {
    "spac-repro sweep": "tests/slurm",
    "spac-repro doctor": "tests/slurm",
    "spac-repro prefetch": "tests/slurm",
    "spac-repro image": "tests/images",
    "spac-repro train --in ": "tests/images",
    "spac-repro train --set training.processes=2": "tests/distributed",
    "torchrun --nproc-per-node=2 ": "tests/distributed",
    "spac-repro evaluate MODEL --suite my_suite/ ": "tests/e2e/test_own_suite.py",
    "spac-repro train --set evaluation.suite=my_suite/ ": "tests/e2e/test_own_suite.py",
    "make setup": ".ci/run",
    "make test": ".ci/run",
    "make check": ".ci/run",
    "make lint": "Makefile",
}


class Command(NamedTuple):
    """One line of a page's shell block."""

    page: str
    text: str
    comment: str

    @property
    def words(self) -> list[str]:
        """The command's words, a loop's body for the loop, its variable replaced."""
        text = re.sub(r" > \S+$", "", self.text)  # into a file
        text = re.sub(r"^torchrun (--\S+ +)+-m spac_repro", "spac-repro", text)
        text = re.sub(r"^for (\w+) in (\S+).*?; do (.*?); done$", lambda m: m[3].replace(f"${m[1]}", m[2]), text)
        words = shlex.split(text)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        return words

    @property
    def not_run(self) -> bool:
        return "not run by tests" in self.comment

    @property
    def elsewhere(self) -> str | None:
        if self.page == "docs/your-own.md":
            return "tests/e2e/test_your_own.py"
        return next((place for start, place in ELSEWHERE.items() if self.text.startswith(start)), None)


def commands() -> Iterator[Command]:
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                text, _, comment = line.partition("  #") if "  #" in line else (line, "", "")
                if text.strip() and not text.startswith("#"):
                    yield Command(str(page.relative_to(ROOT)), text.strip(), comment.strip())


COMMANDS = list(commands())
each = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text}")


def test_there_are_commands_on_the_first_page() -> None:
    assert len([command for command in COMMANDS if command.page == "README.md"]) > 10


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that documents name after --questions, which has to be there."""
    monkeypatch.chdir(tmp_path)
    for name in ("FOLDER", "QUESTIONS", "questions"):
        (tmp_path / name).mkdir()


@each
def test_it_parses(command: Command) -> None:
    """A command of ours is one that the command line takes; others name targets and scripts that exist."""
    words = command.words
    if words[:1] == ["spac-repro"]:
        parse(words[1:])
    elif words[:1] == ["make"]:
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert targets
        assert {word for word in words[1:] if "=" not in word} <= set(targets[1].split())
    elif words[0].endswith("python"):
        assert words[1].startswith("-m") or (ROOT / words[1]).is_file()
    else:
        assert words[0] in ("git", "cd", "source", "pip", "time", "/usr/bin/time", "docker", "pipx", "pre-commit"), (
            f"what is {words[0]}?"
        )


@each
def test_it_is_run_or_says_why_not(command: Command) -> None:
    if command.not_run:
        assert re.search(r"not run by tests: \S.{5,}", command.comment), "say why"
    elif command.elsewhere:
        assert (ROOT / command.elsewhere).exists(), f"nothing runs it: {command.elsewhere} is missing"
    else:
        assert command.page == "README.md", "run it in the README's test, or say `# not run by tests: why`"


def parse(words: list[str]) -> None:
    """As the command line would, without carrying it out."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "resolve_command"):
        context = command.make_context("spac-repro", list(words), parent=context)
        _, command, words = command.resolve_command(context, words)
    command.make_context(command.name, words, parent=context)


INLINE = [(page, text) for page in PAGES for text in re.findall(r"`(spac-repro [^`…]+)`", page.read_text())]


@pytest.mark.parametrize(("page", "text"), INLINE, ids=lambda value: getattr(value, "name", value))
def test_a_command_in_a_sentence_parses(page: Path, text: str) -> None:
    words = shlex.split(text)[1:]
    parse(words if words[-1] not in ("--help", "--install-completion") else words[:-1] or ["recipes", "list"])


def test_what_is_no_command_is_found() -> None:
    for wrong in (["trian"], ["train", "--sed", "1"], ["train", "--seed", "x"], ["recipes", "shwo", "tiny"], ["compare"]):
        with pytest.raises(cli.USAGE_ERROR):
            parse(wrong)


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment whose `spac-repro` is this checkout's, and whose `train` is cut down to seconds."""
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    import cut_down

    sets = " ".join(f"--set {shlex.quote(setting)}" for setting in cut_down.SETTINGS)
    shim = tmp_path / "bin" / "spac-repro"
    shim.parent.mkdir()
    shim.write_text(
        "#!/bin/bash\n"
        f"run={shlex.quote(sys.executable)}\n"
        f'if [ "$1" = train ] && [[ "$*" != *--like* && "$*" != *--dry-run* ]]; then set -- "$@" {sets}; fi\n'
        'exec "$run" -m spac_repro "$@"\n'
    )
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.check
@pytest.mark.e2e
def test_the_commands_of_the_readme_run_one_after_the_other(shell: dict[str, str], tmp_path: Path) -> None:
    for command in COMMANDS:
        if command.page != "README.md" or command.not_run or command.elsewhere:
            continue
        text = "spac-repro train --seed 0" if command.text == "make train" else command.text
        assert text.startswith("spac-repro"), text
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=300)
        # 1: ran, and the numbers disagree; 2 where `verify` finds no expected results of cut-down settings.
        allowed = (0, 1, 2) if " verify" in text else (0, 1) if " compare" in text else (0,)
        assert done.returncode in allowed, f"{text}\n{done.stderr}"
        assert "Traceback" not in done.stderr, text
