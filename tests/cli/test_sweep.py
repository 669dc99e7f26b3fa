"""`sweep …`, where nothing is submitted."""

import json

from spac_repro.launchers import matrix


def test_a_dry_run_shows_every_cell_and_writes_nothing(invoke, tree, tmp_path):
    done = invoke("sweep", "submit", "seeds", "--dry-run", "--json")
    assert done.code == 0
    plan = json.loads(done.out)
    cells = [cell.name for cell in matrix.cells(matrix.Sweep.load("seeds"))]
    assert [task["cell"] for task in plan["tasks"] if task["task"] == "run"] == cells
    table = invoke("sweep", "submit", "seeds", "--cluster", "cpu", "--dry-run").out
    assert all(cell in table for cell in cells)
    assert "--- sbatch file of the cells ---" in table
    assert tree(tmp_path) == {}


def test_what_is_not_there(refused):
    assert "unknown sweep 'sedes' (did you mean seeds?)" in refused("sweep", "submit", "sedes")
    assert "unknown cluster 'cpus' (did you mean cpu?)" in refused("sweep", "submit", "seeds", "--cluster", "cpus")
    for command in ("status", "retry", "cancel", "collect"):
        assert refused("sweep", command, "mine").startswith("mine: no submitted sweep")
