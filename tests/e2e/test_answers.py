"""The answers of a real run: scores follow from them, an edited one is found though hashes were repaired, old runs have none."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cut_down
import pytest
from typer.testing import CliRunner

from spac_repro.cli.root import app
from spac_repro.errors import UserError
from spac_repro.runs import answer_scores, answers, files, manifest
from spac_repro.runs.answers import Answer, Answers
from spac_repro.runs.folder import RunFolder
from spac_repro.trust.run_scores import read_run_scores


@pytest.fixture
def run(uninterrupted: Path, tmp_path: Path) -> RunFolder:
    """A copy of the finished run."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def repair(run: RunFolder, **changes: str | None) -> None:
    """Enter the hashes of changed files into the manifest, as somebody would who edits on purpose; None removes an entry."""
    there = manifest.read(run.manifest_file)
    written = {**(there.written_files or {}), **changes}
    hashes = {name: files.sha256_file(run.path / name) for name, sha256 in written.items() if sha256}
    files.write_json(run.manifest_file, there.model_copy(update={"written_files": hashes}).as_json())


def edit(run: RunFolder, task: str, change: Callable[[Answer], Answer]) -> None:
    """Change the first answer of a task of the last iterate, and repair the hash of the file."""
    file = run.iteration(2).answers_file
    there = answers.read(file)
    rows = list(there.rows())
    first = next(i for i, row in enumerate(rows) if row.task == task)
    rows[first] = change(rows[first])
    answers.write(file, Answers.of(there.about, rows))
    repair(RunFolder(run.path))


def test_scores_are_those_of_the_answers(run: RunFolder):
    for iterate in run.results.iterations:
        found = run.iteration(iterate.iteration).answers()
        assert found is not None
        assert tuple(answer_scores.scores(found)) == iterate.scores
        assert found.about.weights_sha256 == iterate.weights_sha256
        answer_scores.check(found, "here")
    assert [task.name for task in found.about.tasks][:3] == ["gold", "heldout", "mini_arc"]
    read_run_scores(run.path)


CHANGES: list[tuple[str, Callable[[Answer], Answer], str]] = [
    (
        "mini_arc",
        lambda row: replace(row, log_probs=[-9.0, *[-1.0] * 3], gold="0", metrics={"acc_norm": 1.0}),
        "acc_norm is 1 there",
    ),
    ("mini_arc", lambda row: replace(row, metrics={"acc_norm": 1 - row.metrics["acc_norm"]}), "acc_norm is"),
    ("mini_gsm8k", lambda row: replace(row, generated="7", extracted={"exact_match": row.gold}), "was extracted otherwise"),
    (
        "mini_gsm8k",
        lambda row: replace(
            row, generated=row.gold, extracted={"exact_match": row.gold}, metrics={"exact_match": 1.0}, correct=True
        ),
        r"mini_gsm8k exact_match: .* in the scores, and .* from the answers \(results.json\)",
    ),
    ("gold", lambda row: replace(row, metrics={**row.metrics, "reward": 2.0}), r"gold reward: .* from the answers"),
    ("heldout", lambda row: replace(row, metrics={**row.metrics, "margin": 9.0}), r"heldout margin: .* from the answers"),
]


@pytest.mark.parametrize(("task", "change", "message"), CHANGES)
def test_verify_finds_an_edited_answer_though_its_hash_was_repaired(run: RunFolder, task: str, change: Any, message: str):
    edit(run, task, change)
    with pytest.raises(UserError, match=message):
        read_run_scores(run.path)
    done = CliRunner().invoke(app, ["verify", str(run.path)])
    assert isinstance(done.exception, UserError)


def test_answers_of_other_weights_are_refused(run: RunFolder):
    file = run.iteration(2).answers_file
    shutil.copyfile(run.iteration(1).answers_file, file)
    repair(run)
    with pytest.raises(UserError, match="its answers are of the weights"):
        read_run_scores(run.path)


def test_answers_under_another_protocol_are_refused(run: RunFolder):
    file = run.iteration(2).answers_file
    there = answers.read(file)
    answers.write(file, Answers(there.about.model_copy(update={"protocol": "v0.4.0-spin"}), there.table))
    repair(run)
    with pytest.raises(UserError, match=r"under the protocol v0.4.0-spin, and results.json says current"):
        read_run_scores(run.path)


def test_a_changed_or_missing_file_of_answers_is_noticed(run: RunFolder):
    file = run.iteration(1).answers_file
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"answers.parquet: it is not what the run wrote"):
        read_run_scores(run.path)
    file.unlink()
    with pytest.raises(UserError, match=r"answers.parquet: missing, and the run wrote it"):
        read_run_scores(run.path)


@pytest.mark.check
def test_a_run_of_0_2_has_no_answers_and_is_not_asked_anew(run: RunFolder):
    """It is verified as before, and an unfinished one goes on without scoring its iterates again."""
    names = {f"iteration-{t}/answers.parquet": None for t in range(3)}
    for name in names:
        (run.path / name).unlink()
    repair(run, **names)
    read_run_scores(run.path)
    results = run.results_file.read_bytes()
    run.results_file.unlink()
    cut_down.trained(run.path)
    assert not run.iteration(0).answers_file.exists()
    assert run.results_file.read_bytes() == results


@pytest.mark.check
def test_removed_answers_of_an_unfinished_run_are_asked_again_with_the_same_bytes(run: RunFolder):
    file = run.iteration(2).answers_file
    content = file.read_bytes()
    file.unlink()
    run.results_file.unlink()
    repaired = {"results.json": None}
    repair_without = {
        name: sha for name, sha in (manifest.read(run.manifest_file).written_files or {}).items() if name not in repaired
    }
    there = manifest.read(run.manifest_file)
    files.write_json(run.manifest_file, there.model_copy(update={"written_files": repair_without}).as_json())
    cut_down.trained(run.path)
    assert file.read_bytes() == content


def test_evaluate_writes_answers(run: RunFolder, tmp_path: Path):
    command = ["evaluate", str(run.path), "--suite", "mini", "--limit", "4", "--answers", str(tmp_path / "answers.parquet")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found, of_run = answers.read(tmp_path / "answers.parquet"), run.iteration(2).answers()
    assert of_run is not None
    mini = [row for row in of_run.rows() if row.task.startswith("mini")]
    assert list(found.rows()) == mini
    assert found.about.weights_sha256 == of_run.about.weights_sha256
    again = CliRunner().invoke(app, command)
    assert "it is there already" in str(again.exception)
    nowhere = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "none" / "a.parquet")])
    assert "there is no folder" in str(nowhere.exception)
