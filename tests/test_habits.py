"""Habits that no linter checks: one version, decisions that the code points to, hooks that are `make lint`."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from spac_repro import __version__
from spac_repro.cli import options

ROOT = Path(__file__).resolve().parents[1]
VERSION = r"(\d+\.\d+\.\d+)"

# Where the version is repeated, and how it is written there.
COPIES = {
    "CITATION.cff": rf"^version: {VERSION}$",
    "Dockerfile": rf"^ARG VERSION={VERSION}$",
    "apptainer.def": rf"(?:^ +VERSION=|spac-repro:){VERSION}",
    "README.md": rf"spac-repro:{VERSION}",
    "docs/images.md": rf"spac-repro:{VERSION}",
}


def test_the_version_has_one_source():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "spac_repro.__version__"}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_the_version_is_the_version(name):
    assert set(re.findall(COPIES[name], (ROOT / name).read_text(), re.MULTILINE)) == {__version__}


def test_no_other_page_names_an_image_of_some_version():
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")} - set(COPIES)
    assert [page for page in sorted(pages) if re.search(rf"spac-repro:{VERSION}", (ROOT / page).read_text())] == []


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
HEADER = re.compile(
    r"# \S.*\n\n"
    r"- Date: 202\d-\d\d-\d\d\n"
    r"- Status: (?:accepted|superseded by \[\d\d\]\(\S+\.md\))\n"
    r"- Context: \S.*(?:\n  \S.*)*(?<=\.)\n\n"
)  # fmt: skip


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_a_date_a_status_and_its_context(page):
    assert HEADER.match(page.read_text())


def test_each_decision_has_its_own_number():
    numbers = [page.name[:2] for page in DECISIONS]
    assert len(set(numbers)) == len(numbers)


def test_the_changelog_begins_with_this_version():
    versions = re.findall(rf"^## \[{VERSION}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__
    assert versions == sorted(versions, reverse=True)


def test_the_changelog_names_each_renamed_option():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert [old for old, new in options.RENAMED.items() if f"| `{old}` | `{new}` |" not in text] == []


def test_the_hooks_before_a_commit_are_make_lint():
    (recipe,) = re.findall(r"^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == commands
    assert {(hook["language"], hook["pass_filenames"]) for hook in local["hooks"]} == {("system", False)}, "nothing is downloaded"


def test_the_code_links_to_each_decision_that_explains_it():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    code = [ROOT / name for name in tracked if name.endswith((".py", ".toml")) and name != "tests/test_habits.py"]
    linked = {link for file in code for link in re.findall(r"docs/decisions/([\w-]+\.md)", file.read_text())}
    assert linked == {page.name for page in DECISIONS}


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "RESULTS.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_a_page_have_at_most_132_columns(page):
    """Rows of tables and lines of code aside, which cannot be wrapped."""
    text = re.sub(r"^ *```.*?^ *```", lambda block: "\n" * block[0].count("\n"), page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = enumerate(text.splitlines(), 1)
    assert [number for number, line in lines if len(line) > 132 and not line.lstrip().startswith(("|", "<!-- table"))] == []
