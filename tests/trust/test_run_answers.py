"""Runs question by question: two runs, two folders of seeds, and the report's section about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spac_repro.cli.root import app
from spac_repro.errors import UserError
from spac_repro.publish.groups import RunView, group_by_settings
from spac_repro.publish.question_section import question_sections
from spac_repro.runs import answers
from spac_repro.runs.answers import About, Answer, Answers, Metric, TaskAbout
from spac_repro.runs.folder import RunFolder
from spac_repro.trust import run_answers

Make = Callable[..., Path]
TASK = TaskAbout(name="arc", metrics=(Metric(name="acc"),))


OTHER_QUESTIONS = [Answer("arc", "0", "another", "0", {"acc": 1}, 9, log_probs=[-1.0, -2.0])]


def answer(run: Path, iteration: int, values: list[int], protocol: str = "current") -> None:
    rows = [Answer("arc", f"{i}", f"{i:064}", "0", {"acc": value}, 9, log_probs=[-1.0, -2.0]) for i, value in enumerate(values)]
    path = RunFolder(run).iteration(iteration).answers_file
    answers.write(path, Answers.of(About(protocol=protocol, tasks=(TASK,)), rows))


@pytest.fixture
def methods(make: Make, tmp_path: Path) -> list[Path]:
    """Two folders of three seeds each; B answers five questions more than A."""
    for method, gained in (("dpo", 0), ("spac", 5)):
        for seed in (1, 2, 3):
            run = make(
                tmp_path / method / f"seed-{seed}", seed=seed, method=method, settings_sha256=method, scores={0: 0.1, 1: 0.2}
            )
            answer(run, 0, [0] * 20 + [1] * 4)
            answer(run, 1, [1] * (gained + seed) + [0] * (20 - gained - seed) + [1] * 4)
    return [tmp_path / "dpo", tmp_path / "spac"]


def compare(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_two_runs_are_explained_and_gone_through(methods: list[Path]) -> None:
    a, b = (method / "seed-1" for method in methods)
    found = json.loads(compare(a, b, "--json").output)
    assert found["differences"][0]["key"] == "method"
    assert (found["questions"]["scores"][0]["gained"], found["questions"]["scores"][0]["lost"]) == (5, 0)
    shown = compare(a, b).output
    assert shown.splitlines()[0].strip() == "protocol of A and B: current"  # before all else, and once
    assert shown.count("protocol of A and B") == 1
    assert "Questions that changed: 5, of which 5 flipped" in shown
    start = json.loads(compare(a, b, "--iteration", 0, "--json").output)
    assert start["questions"]["changed"] == []


def test_two_runs_without_answers_or_with_other_questions_are_explained_all_the_same(methods: list[Path]) -> None:
    a, b = (method / "seed-1" for method in methods)
    answer(b, 1, [1] * 24, protocol="leaderboard-v1")
    other = compare(a, b, "--json")
    assert "protocol of A: current; of B: leaderboard-v1" in json.loads(other.stdout)["without_questions"]
    assert isinstance(other.exception, UserError)  # one line, exit status 2
    answers.write(RunFolder(b).iteration(1).answers_file, Answers.of(About(tasks=(TASK,)), OTHER_QUESTIONS))
    shown = compare(a, b)
    assert "method" in shown.output
    assert "asked other questions, none in common" in str(shown.exception)
    assert isinstance(compare(a, b, "--iteration", 9).exception, UserError)
    for each in RunFolder(b).iterations():
        each.answers_file.unlink()
    shown = compare(a, b)
    assert shown.exit_code == 0
    assert "has no answers.parquet" in shown.output.replace("\n", " ")


def test_two_folders_of_seeds(methods: list[Path]) -> None:
    done = compare(*methods, "--json")
    found = json.loads(done.output)
    assert found["matched_seeds"]
    assert found["scores"][0]["difference"] == pytest.approx(5 / 24)
    assert (done.exit_code, found["scores"][0]["significant"]) == (1, True)
    listed = compare(*methods[0].iterdir(), "--against", methods[1], "--json")
    assert json.loads(listed.output)["scores"] == found["scores"]


def test_the_last_iteration_that_all_have(methods: list[Path]) -> None:
    runs = [RunFolder.open(method / "seed-1") for method in methods]
    answer(runs[0].path, 2, [1] * 24)
    assert run_answers.last_iteration(runs) == 1
    with pytest.raises(UserError, match=r"iteration 2 has no answers\.parquet"):
        run_answers.of_run(runs[1], 2)


def test_the_report_compares_methods_and_otherwise_the_last_iterate_with_the_start(methods: list[Path]) -> None:
    views = [RunView(RunFolder.open(run)) for method in methods for run in sorted(method.iterdir())]
    (section,) = question_sections(group_by_settings(views))
    assert section.comparison is not None
    assert section.title == "A: dpo, B: spac"
    assert section.rows[0][0] == "arc acc"
    assert len(section.changed) == 7
    (alone,) = question_sections(group_by_settings(views[:3]))
    assert alone.comparison is not None
    assert (alone.title, alone.comparison.scores[0].difference) == ("dpo. A: start policy, B: last iterate", pytest.approx(2 / 24))
    answer(views[0].folder.path, 1, [1] * 24, protocol="leaderboard-v1")
    (refused,) = question_sections(group_by_settings(views))
    assert refused.comparison is None
    assert "leaderboard-v1" in refused.reason
    for view in views:
        for each in view.folder.iterations():
            each.answers_file.unlink()
    assert list(question_sections(group_by_settings(views))) == []
