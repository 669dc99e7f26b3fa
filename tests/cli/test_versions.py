"""Runs of other versions: those of 0.1 are read, newer ones are refused by every command that is given one."""

import json
from pathlib import Path

import pytest

from spac_repro.launchers import matrix
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster
from spac_repro.launchers.sweep_folder import SweepFolder
from spac_repro.runs import files, manifest, results
from spac_repro.runs.folder import RunFolder

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
RUN = "spac/seed-1"
REFUSAL = "schema 99 needs a newer version of spac-repro (this one reads up to {})"

# What version 0.1 wrote, shortened: the digest of the settings has another name in each of the two.
MANIFEST_OF_0_1 = """{
 "schema": 1, "recipe": "tiny", "method": "spac", "seed": 0, "equal_bits_claimed": true, "segments": [],
 "settings_sha256": "c44980604764ad2036623ff5e8ff064c0a576db9ac2c5e15e454d25efad3ff25",
 "settings": {"method": "spac", "name": "tiny", "data": {"source": "world", "pairs": 2000, "world": {"right": 0.55}},
  "objective": {"beta": 0.3, "last_beta": null, "reference": "previous", "critic": "smoothed"}, "start": {"warmup": 0.02}},
 "provenance": {
  "data.pairs": {"mark": "assumed", "why": "nothing is downloaded"}, "methods.spac.critic": {"mark": "reading", "why": ""}},
 "inputs": {"preferences": 2000, "preferences_sha256": "acf1d652f390bbaed7d15920dedf3bbf26dfd7cff0e657142ef8258c64c0f64b"},
 "environment": {"package": "0.1.0", "threads": 1, "libraries": {"torch": "2.13.0"}}
}"""
RESULTS_OF_0_1 = """{
 "schema": 1, "recipe": "tiny", "method": "spac", "seed": 0, "complete": true, "harness": "lm_eval 0.4.13", "overlap": null,
 "settings_digest": "c44980604764ad2036623ff5e8ff064c0a576db9ac2c5e15e454d25efad3ff25",
 "weights_sha256": "baf73e8cebbe9bdc245204eda5d84cb24dbc347e12edc0d3c56199f1c1ad86de",
 "iterations": [
  {"iteration": 0, "weights_sha256": "5a", "scores": [
   {"task": "gold", "metric": "reward", "value": 0.53, "stderr": 0.014, "n": 500,
    "version": "", "note": "", "higher_is_better": true}]},
  {"iteration": 3, "weights_sha256": "ba", "scores": [
   {"task": "gold", "metric": "reward", "value": 0.72, "stderr": 0.013, "n": 500,
    "version": "", "note": "", "higher_is_better": true}]}
 ]
}"""


def of_0_1(folder: Path) -> RunFolder:
    """A finished run of version 0.1, without its weights."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.manifest_file.write_text(MANIFEST_OF_0_1)
    run.results_file.write_text(RESULTS_OF_0_1)
    for iterate in json.loads(RESULTS_OF_0_1)["iterations"]:
        files.write_json(run.iteration(iterate["iteration"]).scores_file, iterate["scores"])
    run.iteration(0).policy.mkdir()
    return run


def aged(file: Path) -> None:
    """Make a file one of a newer version."""
    files.write_json(file, {**json.loads(file.read_text()), "schema": 99})


def test_a_run_of_0_1_is_read(tmp_path):
    run = RunFolder.open(of_0_1(tmp_path / "run").path)
    assert (run.manifest.schema_version, run.results.schema_version) == (manifest.SCHEMA, 1)
    assert (
        run.manifest.settings_sha256
        == run.results.settings_sha256
        == "c44980604764ad2036623ff5e8ff064c0a576db9ac2c5e15e454d25efad3ff25"
    ), "which is not the digest of these few settings"
    assert run.manifest.settings == {
        "method": "spac",
        "name": "tiny",
        "data": {"source": "world", "max_pairs": 2000, "world": {"correct": 0.55}},
        "methods": {"spac": {"beta": 0.3, "last_iteration_beta": None, "reference_policy": "previous", "critic_loss": "smoothed"}},
        "supervised_start": {"warmup_ratio": 0.02},
    }
    assert run.manifest.provenance["data.max_pairs"].why == "nothing is downloaded"
    assert run.manifest.provenance["methods.spac.critic_loss"].mark == "reading"
    assert [(iterate.iteration, iterate.scores[0].value) for iterate in run.results.iterations] == [(0, 0.53), (3, 0.72)]
    assert [(t, score.n) for t, score in run.scores()] == [(0, 500), (3, 500)]


def test_every_command_takes_a_run_of_0_1(invoke, tmp_path):
    of_0_1(tmp_path / "run")
    of_0_1(tmp_path / "other")
    said = json.loads(invoke("verify", "run", "--json").out)
    assert said["recipe"] == "tiny"
    compared = json.loads(invoke("compare", "run", "other", "--json").out)
    assert (compared["differences"], len(compared["scores"])) == ([], 2)
    assert invoke("report", "run").code == 0


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return of_0_1(tmp_path / "run")


@pytest.fixture
def sweep(tmp_path) -> RunFolder:
    """The first run of a sweep that was submitted."""
    what = Sweep(name="mine", summary="s", recipe="tiny", seeds=[1, 2], methods=["spac"])
    folder = SweepFolder(tmp_path / "sweep", what.name, Cluster.load("local"))
    folder.add(matrix.runs(what))
    folder.save()
    run = of_0_1(folder.run_folder(folder.runs[RUN]).path)
    its = json.loads(run.manifest_file.read_text())
    files.write_json(run.manifest_file, {**its, "seed": 1, "settings_sha256": folder.runs[RUN].settings_sha256})
    return run


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "run"],
        ["verify", "older", "run"],
        ["compare", "run", "older"],
        ["compare", "older", "run"],
        ["compare", "older", "older", "--seed-run", "run"],
        ["compare", "run", "expected.yaml"],
        ["report", "run"],
        ["report", "older", "run"],
        ["evaluate", "run"],
        ["evaluate", "run/iteration-0/policy"],
        ["train", "--like", "run"],
    ],
    ids=" ".join,
)
def test_a_newer_manifest_is_refused(refused, run, tmp_path, command):
    of_0_1(tmp_path / "there" / "older").path.rename(tmp_path / "older")
    aged(run.manifest_file)
    assert REFUSAL.format(manifest.SCHEMA) in refused(*command, stages=True)


@pytest.mark.parametrize("command", [["verify", "run"], ["compare", "run", "older"], ["report", "run"]], ids=" ".join)
def test_newer_results_are_refused(refused, run, tmp_path, command):
    of_0_1(tmp_path / "older")
    aged(run.results_file)
    assert REFUSAL.format(results.SCHEMA) in refused(*command)


@pytest.mark.parametrize("schema", ["2", 0, True, None, 1.0])
def test_a_schema_that_no_version_wrote_is_refused(refused, run, schema):
    for file in (run.manifest_file, run.results_file):
        before = file.read_text()
        files.write_json(file, {**json.loads(before), "schema": schema})
        assert "which no version wrote" in refused("verify", "run")
        file.write_text(before)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("settings", "data", "x"), ("settings", "methods", None), ("settings", "training", [1]), ("environment", "source", "x")],
)
def test_a_group_of_a_manifest_that_is_none_is_refused(refused, run, group, name, value):
    its = manifest.read(run.manifest_file).as_json()
    del its["sha256"]
    its[group][name] = value
    files.write_json(run.manifest_file, its)
    for command in (
        ["verify", "run"],
        ["compare", "run", "run"],
        ["report", "run"],
        ["evaluate", "run"],
        ["train", "--like", "run"],
    ):
        assert f"{name} must be a group of values" in refused(*command, stages=True)


def test_a_world_that_cannot_be_is_refused(refused, run):
    its = json.loads(run.manifest_file.read_text())
    its["settings"]["data"]["world"] = {"seed": "x"}
    run.iteration(3).policy.mkdir(parents=True, exist_ok=True)
    files.write_json(run.manifest_file, its)
    assert "settings.data.world.seed: Input should be a valid integer" in refused("evaluate", "run", "--suite", "mini", stages=True)


def test_a_newer_run_is_not_carried_on(refused, run, own_recipe, pairs):
    aged(run.manifest_file)
    (run.path / ".lock").touch()
    arguments = ("train", "--recipe", own_recipe(), "--preferences", pairs(PAIR), "--out", "run")
    assert REFUSAL.format(manifest.SCHEMA) in refused(*arguments, stages=True)


def test_the_start_of_a_newer_run_is_not_shared(refused, run, own_recipe, pairs):
    aged(run.manifest_file)
    arguments = ("train", "--recipe", own_recipe(), "--preferences", pairs(PAIR), "--out", "new", "--start-from", "run")
    assert REFUSAL.format(manifest.SCHEMA) in refused(*arguments, stages=True)


@pytest.mark.parametrize("command", ["status", "collect"])
@pytest.mark.parametrize("file", ["manifest", "results"])
def test_a_sweep_with_a_newer_run_is_refused(refused, sweep, command, file):
    aged(getattr(sweep, f"{file}_file"))
    schema = {"manifest": manifest.SCHEMA, "results": results.SCHEMA}[file]
    message = refused("sweep", command, "sweep")
    assert REFUSAL.format(schema) in message
    assert RUN in message


def test_todays_schemas():
    """One that grows needs a literal of the one before it above."""
    assert (manifest.SCHEMA, results.SCHEMA) == (2, 2)
