"""verdict.json: what is written is read again, and what is no verdict is refused."""

import json
import math
from dataclasses import replace

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import files, verdict
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.verdict import ExpectedResultsFile, ScoreComparison, ScoreKey, SeveralRuns, Verdict

GOLD = ScoreKey("spac", "gold", "reward", 3)


def said(fresh: float = 0.9) -> Verdict:
    return Verdict(
        "tiny",
        "disagrees",
        "outside the tolerance",
        0.01,
        comparisons=(ScoreComparison(GOLD, True, "measured", 0.8, fresh, 1, 0.03, 0.04, None, note="n"),),
        inapplicable=((ScoreKey("dpo", "gold", "reward", 1), "no fresh value"),),
        without_row=(ScoreKey("x", "y", "z"),),
        notes=("beware",),
        expected_file=ExpectedResultsFile("expected_results/tiny.yaml", "e"),
        files=("spac seed 0: 3 files are what the run wrote",),
    )


def test_a_verdict_is_plain_json():
    found = json.loads(json.dumps(said().as_json(), allow_nan=False))
    assert found["status"] == "disagrees"
    (compared,) = found["rows"]
    assert (compared["method"], compared["iteration"], compared["runs"]) == ("spac", 3, 1)
    assert compared["difference"] == pytest.approx(0.1)
    assert (compared["source"], compared["verdict"], compared["without_power"]) == ("measured", "disagrees", False)
    assert found["inapplicable"] == [
        {"method": "dpo", "task": "gold", "metric": "reward", "iteration": 1, "reason": "no fresh value"}
    ]
    assert found["without_row"] == [{"method": "x", "task": "y", "metric": "z", "iteration": None}]


@pytest.mark.parametrize("fresh", [0.9, math.inf, -math.inf])
def test_what_is_written_is_read_again(tmp_path, fresh):
    run = RunFolder(tmp_path)
    run.write_verdict(said(fresh))
    assert run.verdict() == said(fresh)
    assert run.verdict().exit_code == 1


@pytest.mark.parametrize("furthest", [0.9, math.inf])
def test_several_runs_are_read_again_and_all_that_is_outside_is_named(tmp_path, furthest):
    several = SeveralRuns(furthest=furthest, run_tolerance=0.05, spread=0.1, largest_spread=0.09)
    compared = ScoreComparison(GOLD, True, "measured", 0.8, 0.8, 2, 0.03, 0.04, None, several=several)
    verdict.write(tmp_path, replace(said(), comparisons=(compared,)))
    (read,) = RunFolder(tmp_path).verdict().comparisons
    assert read == compared
    assert (read.agrees, read.faults) == (False, ("a run", "spread"))
    assert replace(read, several=None).agrees
    assert replace(read, several=replace(several, furthest=0.84, largest_spread=None)).agrees
    assert json.loads((tmp_path / verdict.FILE).read_text())["rows"][0]["outside"] == ["a run", "spread"]


def test_not_a_number_is_read_again(tmp_path):
    verdict.write(tmp_path, said(math.nan))
    (read,) = RunFolder(tmp_path).verdict().comparisons
    assert math.isnan(read.fresh)
    assert not read.agrees


@pytest.mark.parametrize("content", [[], {}, {"rows": [{}]}, {**said().as_json(), "status": "fine"}])
def test_what_is_no_verdict_is_refused(tmp_path, content):
    if isinstance(content, dict):
        content = {**content, "computed_from": {}}
        content["sha256"] = files.sha256_json(content)
    files.write_json(tmp_path / verdict.FILE, content)
    with pytest.raises(UserError, match="not a verdict"):
        RunFolder(tmp_path).verdict()


def test_a_verdict_that_was_changed_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_verdict(said())
    run.verdict_file.write_text(run.verdict_file.read_text().replace('"expected": 0.8', '"expected": 0.9'))
    with pytest.raises(UserError, match="its hash is not the one written in it; remove it"):
        run.verdict()


def test_a_verdict_about_other_results_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.results_file.write_text("{}")
    run.write_verdict(said())
    assert run.verdict() == said()
    run.results_file.write_text("[]")
    with pytest.raises(UserError, match="about other results than those beside it"):
        run.verdict()
