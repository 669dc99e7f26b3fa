"""Every commit that this repository names is in its history, or is marked as lost beside the one that replaced it."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spac_repro.trust.expected import Measured, load_expected

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("docs", "bench", "experiments", "launchers", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
NAMED = re.compile(r"\bcommits?:? +`?([0-9a-f]{7,40})\b")
REPLACED = re.compile(r"which is\s+lost[^.]*[.;:]?\s+[Cc]ommit `?([0-9a-f]{7,40})`?\s+replaced\s+it")
NOT_OURS = {
    ("docs/decisions/11-documents.md", "1234567"),  # a setting's value, in an explanation of how it is parsed
    ("docs/leaderboard.md", "b281b09"),  # lm-eval's
    ("docs/leaderboard.md", "02bb2c4"),
}


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def in_history() -> Callable[[str], bool]:
    """Whether a commit is HEAD or before it. An object that is there but in no history would be in no clone."""
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("not a checkout with its whole history (git fetch --unshallow)")
    history = git("rev-list", "HEAD").split()
    return lambda commit: any(each.startswith(commit) for each in history)


def documents() -> list[Path]:
    found = [path for place in PLACES for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))]
    return [path for path in found if path.suffix in (".md", ".py", ".yaml")]


def unexplained(text: str, in_history: Callable[[str], bool]) -> Iterator[str]:
    """The commits of a document that are neither in the history nor marked as lost with one that is."""
    for match in NAMED.finditer(text):
        commit = match[1]
        if in_history(commit):
            continue
        mark = REPLACED.match(text[match.end() :].lstrip("` ,\n"))
        if not (mark and in_history(mark[1])):
            yield commit


def test_every_commit_that_a_document_names_is_in_the_history_or_marked_as_lost(in_history: Callable[[str], bool]) -> None:
    files = documents()
    assert len(files) > 30
    found = [(str(file.relative_to(ROOT)), commit) for file in files for commit in unexplained(file.read_text(), in_history)]
    assert [each for each in found if each not in NOT_OURS] == []


def test_every_commit_of_the_expected_results_is_in_the_history_or_marked_as_lost(in_history: Callable[[str], bool]) -> None:
    files = sorted((ROOT / "expected_results").glob("*.yaml"))
    sources = [(file.name, source) for file in files for source in load_expected(file).sources.values()]
    measured = [(name, source) for name, source in sources if isinstance(source, Measured)]
    for name, source in measured:
        assert in_history(source.commit) == (source.lost is None), f"{name}: {source.commit}"
        assert in_history(source.commit_in_history), f"{name}: {source.commit_in_history}"
    assert len(measured) > 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("measured at commit aaaaaaa, yesterday", []),
        ("measured at commit bbbbbbb, yesterday", ["bbbbbbb"]),
        ("commit: bbbbbbb", ["bbbbbbb"]),
        ("of commit `bbbbbbb`, which is lost; commit aaaaaaa\nreplaced it", []),
        ("of commit bbbbbbb,\nwhich is lost: the history was rewritten. Commit aaaaaaa\nreplaced it", []),
        ("of commit bbbbbbb, which is lost; commit ccccccc replaced it", ["bbbbbbb", "ccccccc"]),
        ("commit bbbbbbb, which is lost", ["bbbbbbb"]),
    ],
)
def test_a_commit_that_is_not_there_is_found(text: str, found: list[str]) -> None:
    assert list(unexplained(text, lambda commit: commit == "aaaaaaa")) == found
