"""The GitHub workflows: well-formed, every action pinned by commit, no more rights than reading."""

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[1] / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))


def unpinned(text: str) -> list[str]:
    uses = re.findall(r"uses:\s*(\S+)", text)
    return [use for use in uses if not use.startswith("./") and not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", use)]


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} >= {"tiny", "verify"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_pinned_and_may_only_read(path):
    text = path.read_text()
    assert unpinned(text) == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        writes = {what for what, how in job.get("permissions", {}).items() if how == "write"}
        assert writes <= ({"packages", "id-token"} if (path.stem, name) == ("release", "release") else set())
        assert "uses" in job or (job["runs-on"] and job["timeout-minutes"] <= 90)
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", ""), "an input in a script's text can run commands"


def test_a_pull_request_is_linted_and_tested_without_secrets():
    workflow = yaml.safe_load((FOLDER / "tests.yml").read_text())
    assert "pull_request" in workflow[True], "`on`, as YAML reads it"
    runs = " ".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    assert re.findall(r"make ([a-z ]+)", runs)[0].split() == ["lint", "test"]
    for path in WORKFLOWS:
        assert "pull_request_target" not in path.read_text(), "it would run a stranger's code with the repository's secrets"


def test_an_action_by_tag_is_found():
    assert unpinned("- uses: actions/checkout@v4") == ["actions/checkout@v4"]
