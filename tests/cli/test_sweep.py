"""`sweep …`, where nothing is submitted."""

import json

from spac_repro.launchers import matrix


def test_a_dry_run_shows_every_run_and_writes_nothing(invoke, tree, tmp_path):
    done = invoke("sweep", "submit", "seeds", "--dry-run", "--json")
    assert done.code == 0
    plan = json.loads(done.out)
    runs = [run.name for run in matrix.runs(matrix.Sweep.load("seeds"))]
    assert [task["run"] for task in plan["tasks"] if task["task"] == "run"] == runs
    table = invoke("sweep", "submit", "seeds", "--cluster", "cpu", "--dry-run").out
    assert all(run in table for run in runs)
    assert "--- sbatch file of the runs ---" in table
    assert tree(tmp_path) == {}


def test_unknown_names_are_refused(refused):
    assert "unknown sweep 'sedes' (did you mean seeds?)" in refused("sweep", "submit", "sedes")
    assert "unknown cluster 'cpus' (did you mean cpu?)" in refused("sweep", "submit", "seeds", "--cluster", "cpus")
    for command in ("status", "retry", "cancel", "collect"):
        assert refused("sweep", command, "mine").startswith("mine: no submitted sweep")
