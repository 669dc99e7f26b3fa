"""What a real run can return: the mixture of its iterates, and the average of their weights as a model folder and as scores."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from spac_repro.cli.root import app
from spac_repro.errors import UserError
from spac_repro.evaluation import returned
from spac_repro.model import policy
from spac_repro.progress import NoProgress
from spac_repro.publish import export
from spac_repro.runs.answers import Answers
from spac_repro.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import records
import tiny_campaign

pytestmark = pytest.mark.e2e

POLICIES = ("start", "iterate 1", "iterate 2", "mixture", "mixture with the start", "average", "average with the start")


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    return done.exit_code, done.stdout


@pytest.fixture(scope="module")
def scored(uninterrupted: Path) -> dict[str, dict[tuple[str, str], float]]:
    """The scores of every policy, by task and metric."""
    code, out = run("returned", uninterrupted, "--json")
    assert code == 0
    found = json.loads(out)["policies"]
    return {each["policy"]: {(row["task"], row["metric"]): row["value"] for row in each["scores"]} for each in found}


def test_the_iterates_have_the_scores_of_the_run_and_the_mixture_their_mean(uninterrupted: Path, scored: dict[str, Any]) -> None:
    assert tuple(scored) == POLICIES
    for iterate, name in zip(RunFolder.open(uninterrupted).results.iterations, POLICIES, strict=False):
        recorded = {(row.task, row.metric): row.value for row in iterate.scores if row.task in returned.TASKS}
        assert scored[name] == recorded
    for name, parts in (("mixture", POLICIES[1:3]), ("mixture with the start", POLICIES[:3])):
        for metric in ("reward", "exact", "win_rate", "length"):
            mean = np.mean([scored[part]["gold", metric] for part in parts])
            assert scored[name]["gold", metric] == pytest.approx(mean, abs=1e-12)
        assert scored[name]["heldout", "divergence"] >= 0
    assert scored["average"] != scored["average with the start"]


def test_an_average_of_one_iterate_is_measured_as_the_run_measured_it(uninterrupted: Path) -> None:
    """The scores of averages come from the code and the precision of the run: an iterate alone gets its scores, to the last bit."""
    recorded, folder = returned.recorded(uninterrupted), RunFolder.open(uninterrupted)
    found = returned.measure(recorded, folder, [2], 2, advance=lambda done, total: None)
    there = folder.iteration(2).answers()
    assert there is not None
    again = Answers.join(there.about, list(found.values()))
    assert list(found) == list(returned.TASKS)
    assert list(again.rows()) == [row for row in there.rows() if row.task in found]


def test_the_exported_average_is_the_mean_of_the_weights_and_has_the_scores(
    uninterrupted: Path, scored: dict[str, Any], tmp_path: Path
) -> None:
    for flags, name, parts in (((), "average", (1, 2)), (("--with-start",), "average with the start", (0, 1, 2))):
        out = tmp_path / name.replace(" ", "-")
        code, printed = run("export", uninterrupted, "--average", *flags, "-o", out, "--json")
        assert (code, json.loads(printed)["averaged"]) == (0, list(parts))
        iterates = [load_file(uninterrupted / f"iteration-{t}" / "policy" / "model.safetensors") for t in parts]
        found = load_file(out / "model.safetensors")
        assert set(found) == set(iterates[0])
        for tensor, values in found.items():
            exact = np.mean([each[tensor].astype(np.float64) for each in iterates], axis=0)
            assert np.array_equal(values, exact.astype(np.float32)), tensor
        assert policy.weights_sha256(policy.load(out)[0]) == json.loads(printed)["weights_sha256"]
        again = [each for each in returned.score(uninterrupted, NoProgress()) if each.policy == name] if flags else []
        assert all({(row.task, row.metric): row.value for row in each.scores} == scored[name] for each in again)


def test_an_unfinished_run_a_removed_and_a_changed_iterate_are_refused(uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted, copy)
    weights = copy / "iteration-1" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="iteration-1/policy"):
        export.average(copy, tmp_path / "out")
    shutil.rmtree(copy / "iteration-1" / "policy")
    with pytest.raises(UserError, match="the average needs every iterate"):
        export.average(copy, tmp_path / "out")
    (copy / "results.json").unlink()
    for refused in (export.average, returned.score):
        with pytest.raises(UserError, match="unfinished"):
            refused(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_flags_that_do_not_go_together_are_refused(uninterrupted: Path, tmp_path: Path) -> None:
    for flags, problem in ((("--with-start",), "add --average"), (("--average", "--base", tmp_path), "omit --base")):
        done = CliRunner().invoke(app, ["export", str(uninterrupted), "-o", str(tmp_path / "out"), *map(str, flags)])
        assert isinstance(done.exception, UserError)
        assert problem in str(done.exception)


def test_the_records_of_a_run_hold_its_scores_and_those_of_what_it_returns(
    uninterrupted: Path, scored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "check_one_environment", lambda runs: None)  # this run is of code that no commit holds
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    for folder in ("spac", "beta=1.0/spac"):
        shutil.copytree(uninterrupted, tmp_path / "seeds" / folder / "seed-0")
    for stage in ("returned", "returned", "records"):
        tiny_campaign.run_stage(tiny_campaign.Campaign(tmp_path, 1), stage)
    assert [file.name for file in (tmp_path / "returned").iterdir()] == ["spac-seed-0.json"]
    again = records.read("tiny-seeds+tiny-variants")
    assert sorted(again.groups()) == ["", "beta=1.0"]
    results = RunFolder.open(uninterrupted).results
    for group in again.groups():
        (run_scores,) = again.runs(group)["spac"]
        found = [(t, score.task, score.metric, score.value, score.n, score.version) for t, score in run_scores.items()]
        there = [
            (each.iteration, score.task, score.metric, score.value, score.n, score.version)
            for each in results.iterations
            for score in each.scores
        ]
        assert found == there
    for name in POLICIES[3:]:
        assert again.value("spac", 0, name, "gold", "reward") == scored[name]["gold", "reward"]
    with pytest.raises(UserError, match="no run folder, and none below it"):
        records.of_runs("here", tmp_path / "records", "a test")


def test_the_audits_of_a_run_are_recorded(uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "check_one_environment", lambda runs: None)  # this run is of code that no commit holds
    shutil.copytree(uninterrupted, tmp_path / "seeds" / "spac" / "seed-0")
    made = records.of_audits("here", tmp_path / "seeds", "a test")
    again = records.read(str(records.write(made, tmp_path)))
    assert again.rows == made.rows
    for iteration in RunFolder.open(uninterrupted).iterations():
        if (audit := iteration.audit()) is not None:
            number = str(iteration.number)
            assert again.value("spac", 0, number, "selfplay", "cut") == audit.sides["selfplay"].cut
            assert again.value("spac", 0, number, "chosen_length", "accuracy") == audit.comparisons["chosen"].length.accuracy
    assert {row.policy for row in made.rows} == {"1", "2"}
