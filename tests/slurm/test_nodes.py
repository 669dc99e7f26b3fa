"""One cell on two nodes with two processes each: all four train, and compute what one process does."""

from pathlib import Path

import lab
import pytest
from cluster import Cluster

from spac_repro import metrics

ENGINES = ("accelerate", "deepspeed-zero2")
# Relative; rows are packed with other neighbours, and sums are taken in another order. As in tests/distributed.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cell in one process, without a cluster."""
    out = tmp_path_factory.mktemp("alone") / "run"
    process = lab.train(out, "spac", 1)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return out


@pytest.mark.parametrize("engine", ENGINES)
def test_two_nodes_with_two_processes_train_together(engine: str, cluster: Cluster, sweep: lab.Sweep, alone: Path) -> None:
    sweep.submitted(
        profile={"nodes": 2, "processes_per_node": 2},
        settings={"training.processes": 4, "training.engine": engine},
    )
    cells = sweep.ended()
    assert cells["spac/seed-1"]["stage"] == "done", (cells, sweep.log("spac/seed-1"))
    assert f"4 processes have found each other; engine {engine}" in sweep.log("spac/seed-1")
    row = cluster.ask("sacct", "-X", "-n", "-P", "-j", sweep.job("spac/seed-1"), "-o", "NNodes").strip()
    assert row == "2"

    ours, theirs = metrics.read(sweep.folder / "spac/seed-1"), metrics.read(alone)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert ours  # steps were taken
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in theirs], rel=ROUNDING)
    first, last = ((lab.weights(sweep.folder / "spac/seed-1")[i], lab.weights(alone)[i]) for i in (0, 1))
    assert first[0] == first[1]
    assert last[0] != last[1]  # the rounding that is allowed for is there: it was not one process after all
