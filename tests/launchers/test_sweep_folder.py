"""A sweep's folder: private, of one version, and what stands in it comes back."""

import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from spac_repro.cli.root import app
from spac_repro.errors import UserError
from spac_repro.launchers import matrix, sweep, sweep_folder
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster
from spac_repro.launchers.sweep_folder import SweepFolder


def make(folder, seeds=(1, 2), **more):
    what = Sweep(name="mine", summary="s", recipe="tiny", seeds=list(seeds), methods=["spac", "dpo"], **more)
    made = SweepFolder(folder, what.name, Cluster.load("local"))
    made.add(matrix.runs(what))
    return made


def test_a_saved_sweep_is_read_unchanged(tmp_path):
    before = make(tmp_path)
    before.jobs = {"run": {"spac/seed-1": "17_0"}}
    sweep_folder.make_private(before.job_folder)
    before.save()
    assert sweep_folder.read(tmp_path) == before
    assert sweep_folder.find(str(tmp_path)) == tmp_path


def test_runs_can_be_added_but_not_changed(tmp_path):
    there = make(tmp_path)
    there.add(make(tmp_path, seeds=[1, 2, 3]).runs.values())
    assert len(there.runs) == 6
    with pytest.raises(UserError, match="has a run spac/seed-1 with other settings"):
        there.add(make(tmp_path, settings={"training.epochs_per_iteration": 1}).runs.values())


def test_runs_of_a_concurrent_submit_are_not_submitted_again(tmp_path):
    sweep_folder.make_private(tmp_path / "jobs")
    ours, theirs = make(tmp_path), make(tmp_path, seeds=[1, 2, 3])
    theirs.jobs = {"run": {run: f"17_{i}" for i, run in enumerate(theirs.runs)}}
    theirs.save()
    ours.refresh()
    assert ours.jobs == theirs.jobs
    assert set(ours.runs) == set(theirs.runs)


def test_the_first_run_with_a_start_makes_it(tmp_path):
    there = make(tmp_path)
    assert {there.start_owner(run).name for run in there.runs.values()} == {"spac/seed-1", "spac/seed-2"}
    assert all(there.shares_start(run) for run in there.runs.values())
    alone = make(tmp_path, seeds=[1], vary={"supervised_start.epochs": [1, 2]})
    assert len({alone.start_owner(run).name for run in alone.runs.values()}) == 2


def test_planning_writes_nothing(tmp_path):
    there = make(tmp_path / "sweep")
    tasks = [str(task) for task in sweep.plan(there).tasks]
    starts, rest = ["start of spac/seed-1", "start of spac/seed-2"], ["spac/seed-1", "spac/seed-2", "dpo/seed-1", "dpo/seed-2"]
    assert tasks == starts + rest
    there.cluster = Cluster.load("cpu")
    assert "--array=0-3%4" in sweep.plan(there).script
    assert not list(tmp_path.iterdir())


def test_jobs_are_for_their_user_alone(tmp_path):
    folder = tmp_path / "jobs"
    sweep_folder.make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(UserError, match="is open to other users"):
        sweep_folder.make_private(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not yours"):
        sweep_folder.check_private(tmp_path / "link")
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 65534, 65534)
        with pytest.raises(UserError, match="is not yours"):
            sweep_folder.check_private(folder)


def test_another_version_and_no_sweep_are_refused(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="another version of spac-repro wrote it"):
        sweep_folder.read(tmp_path)
    with pytest.raises(UserError, match="no submitted sweep"):
        sweep_folder.find(str(tmp_path / "none"))


def test_a_partial_line_is_ignored(tmp_path):
    file = tmp_path / "attempts.jsonl"
    file.write_text('{"job": "1", "position": "a"}\n{"job": "1", "en')
    assert sweep_folder.attempts(file) == [{"job": "1", "position": "a"}]
    assert sweep_folder.attempts(tmp_path / "none") == []


def test_a_sweep_of_0_1_is_read(tmp_path):
    """Its settings, and the keys of its cluster profile, had other names."""
    folder = make(tmp_path, seeds=[1])
    folder.save()
    tree = json.loads((tmp_path / "sweep.json").read_text())
    cells = []
    for run in tree.pop("runs"):
        run |= {"varied": {"objective.last_beta": None}, "settings": ["objective.last_beta=null", "data.pairs=100"]}
        cells.append({**run, "digest": run.pop("settings_sha256"), "start": run.pop("start_sha256")})
    parallel = tree["cluster"].pop("max_parallel_runs")
    image = {"runner": "podman", "path": "x"}
    cluster = {**tree["cluster"], "scheduler": "slurm", "parallelism": parallel, "image": image}
    (tmp_path / "sweep.json").write_text(json.dumps({**tree, "schema": 1, "cells": cells, "cluster": cluster}))
    old = sweep_folder.read(tmp_path)
    assert (old.cluster.max_parallel_runs, old.cluster.image.runtime) == (1, "podman")
    run = old.runs["spac/seed-1"]
    assert run.settings == ("methods.spac.last_iteration_beta=null", "data.max_pairs=100")
    assert run.varied == {"methods.spac.last_iteration_beta": None}
    assert run.settings_sha256 == folder.runs["spac/seed-1"].settings_sha256
    old.save()
    assert sweep_folder.read(tmp_path) == old


@pytest.mark.parametrize(
    "change", [{"runs": 1}, {"runs": [{}]}, {"jobs": {"run": 3}}, {"name": None}, {"cluster": []}, {"schema": 1}]
)
def test_content_of_the_wrong_kind_is_refused_in_one_line(tmp_path, change):
    valid = {"schema": 2, "name": "s", "cluster": {"summary": "x", "scheduler": "local"}, "runs": [], "jobs": {}}
    (tmp_path / "sweep.json").write_text(json.dumps(valid | change))
    with pytest.raises(UserError) as refused:
        sweep_folder.read(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}/sweep.json: ")


def saved(path):
    there = make(path)
    sweep_folder.make_private(there.job_folder)
    there.save()
    return there


def test_the_environment_of_the_profile_is_for_its_user_alone(tmp_path):
    saved(tmp_path)
    assert (tmp_path / "sweep.json").stat().st_mode & 0o777 == 0o600


def test_a_sweep_that_others_can_change_is_refused(tmp_path):
    folder = tmp_path / "sweep"
    saved(folder)
    folder.chmod(0o777)
    with pytest.raises(UserError, match="other users can write to"):
        sweep_folder.read(folder)
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder / "sweep.json", 65534, 65534)
        with pytest.raises(UserError, match="is not yours"):
            sweep_folder.read(folder)
        os.chown(folder, 65534, 65534)
        with pytest.raises(UserError, match="belongs to another user"):
            sweep_folder.read(folder)


def test_a_profile_out_of_an_archive_is_not_executed(tmp_path):
    saved(tmp_path / "sweep")
    shutil.copytree(tmp_path / "sweep", tmp_path / "unpacked")
    result = CliRunner().invoke(app, ["sweep", "retry", str(tmp_path / "unpacked")])
    assert isinstance(result.exception, UserError)
    assert "was written elsewhere" in str(result.exception)
    assert sweep_folder.read(tmp_path / "sweep").made_here


@pytest.mark.parametrize("name", ["../escaped", "/absolute", "spac/../../x", "spac/seed-1\nx", ""])
def test_a_run_lies_below_its_sweep(tmp_path, name):
    saved(tmp_path)
    file = tmp_path / "sweep.json"
    tree = json.loads(file.read_text())
    tree["runs"][0]["name"] = name
    file.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="is no name of a run"):
        sweep_folder.read(tmp_path)
