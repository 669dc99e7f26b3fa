"""A run that is scored on a suite of one's own: one task file, some questions, and nothing else changed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cut_down
import pytest

from spac_repro import recipes
from spac_repro.data import sources

pytestmark = pytest.mark.e2e

SETTINGS = (*cut_down.SETTINGS, "training.iterations=1", "evaluation.suite=my_suite/")
TASK = """\
name: backwards
prompt:
  output_type: multiple_choice
  doc_to_text: question
  doc_to_choice: choices
  doc_to_target: answer
  target_delimiter: ""
test_split: test
metrics: {acc: "acc,none"}
columns: [question, choices, answer]
"""


def spac_repro(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spac_repro", *arguments]
    return subprocess.run(command, cwd=folder, env=cut_down.environment(), capture_output=True, text=True, timeout=600)


def train(folder: Path, out: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = cut_down.command(Path(out), "--questions", "questions", *arguments, settings=SETTINGS)[3:]
    return spac_repro(folder, *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite, its questions (the second is a training prompt too), and a finished run."""
    folder = tmp_path_factory.mktemp("own-suite")
    (folder / "my_suite").mkdir()
    (folder / "my_suite" / "backwards.yaml").write_text(TASK)
    prompt = sources.read(recipes.load("tiny"), preferences=None, questions=None).preferences[3].prompt[0]["content"]
    rows = [
        {"question": "reverse:abcd=", "choices": ["dcba", "dcab", "abcd"], "answer": 0},
        {"question": prompt, "choices": ["a", "b"], "answer": 1},
        {"question": "reverse:hgfa=", "choices": ["hgfa", "afgh"], "answer": 1},
    ]
    (folder / "questions" / "backwards").mkdir(parents=True)
    (folder / "questions" / "backwards" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = train(folder, "run")
    assert done.returncode == 0, done.stderr
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "run" / name).read_text())


def test_scores_carry_the_contamination_note(folder: Path) -> None:
    for iterate in read(folder, "results.json")["iterations"]:
        (score,) = (score for score in iterate["scores"] if score["task"] == "backwards")
        assert (score["metric"], score["n"], score["note"]) == ("acc", 3, "contaminated: 1 of 3 items")
        assert score["value"] in (0, 1 / 3, 2 / 3, 1)
    (task,) = read(folder, "results.json")["contamination"]["tasks"].values()
    assert task["item_indexes"] == [1]
    assert 3 in task["row_indexes"]


def test_the_run_is_concluded_in_any_folder(folder: Path, tmp_path: Path) -> None:
    """The suite is named by its place, which is not that of the command."""
    words = cut_down.command(folder / "run", "--questions", str(folder / "questions"), settings=SETTINGS)[3:]
    done = spac_repro(tmp_path, *(word.replace("my_suite/", str(folder / "my_suite")) for word in words))
    assert done.returncode == 0, done.stderr
    assert "is complete; nothing to do" in done.stderr


def test_the_manifest_names_the_suite_and_the_hashes_of_its_files(folder: Path) -> None:
    manifest = read(folder, "manifest.json")
    assert manifest["settings"]["evaluation"]["suite"] == "my_suite"
    assert manifest["inputs"]["suite_sha256"].keys() == {"backwards.yaml"}
    assert manifest["inputs"]["questions_sha256"].keys() == {"backwards/test.jsonl"}
    assert str(folder) not in json.dumps(manifest)
    assert "suite_sha256" not in sources.read(recipes.load("tiny"), preferences=None, questions=None).identity()


def test_a_run_is_not_resumed_with_another_suite_of_that_name(folder: Path) -> None:
    file = folder / "my_suite" / "backwards.yaml"
    file.write_text(TASK.replace('""', '" "'))
    done = train(folder, "run")
    file.write_text(TASK)
    assert done.returncode == 2
    assert "inputs.suite_sha256.backwards.yaml" in done.stderr
    assert train(folder, "run").returncode == 0


def test_the_last_iterate_has_the_same_scores_by_the_command_line(folder: Path) -> None:
    done = spac_repro(folder, "evaluate", "run", "--suite", "my_suite", "--questions", "questions", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    (score,) = (score for score in read(folder, "results.json")["iterations"][-1]["scores"] if score["task"] == "backwards")
    assert answer["suite"] == "my_suite"
    assert answer["scores"][0] == {**score, "note": ""}
    assert answer["scores"][1]["task"] == "average"


def test_the_run_is_repeated_from_its_manifest_where_its_suite_is(folder: Path) -> None:
    done = spac_repro(folder, "train", "--like", "run", "--questions", "questions")
    assert done.returncode == 0, done.stderr
    (folder / "my_suite").rename(folder / "elsewhere")
    done = spac_repro(folder, "train", "--like", "run", "--questions", "questions", "--out", "again")
    (folder / "elsewhere").rename(folder / "my_suite")
    assert done.returncode == 2
    assert "unknown suite 'my_suite'" in done.stderr
