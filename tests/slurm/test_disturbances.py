"""Cells that are timed out, preempted, killed with their node, started twice and cancelled: the bits are those of a quiet run."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import lab
import pytest
from cluster import Cluster, wait_for

CELL = "spac/seed-1"


@pytest.fixture(scope="module")
def quiet(direct: Callable[[int], dict[str, list[str]]]) -> list[str]:
    """The hashes of the cell's iterates where nothing disturbs it."""
    return direct(1)["spac"]


def done(sweep: lab.Sweep) -> list[str]:
    """The hashes of the cell, once it is done."""
    cells = sweep.ended()
    assert cells[CELL]["stage"] == "done", (cells, sweep.log(CELL))
    return lab.weights(sweep.folder / CELL)


def checkpoints(sweep: lab.Sweep) -> list[str]:
    return sorted(path.name for path in (sweep.folder / CELL).glob("iteration-*/training/step-*"))


def test_preempted_twice(cluster: Cluster, sweep: lab.Sweep, quiet: list[str]) -> None:
    """A long limit, and the signal early: submitit would call the first kind a preemption, and a short limit a timeout."""
    sweep.submitted(profile={"minutes": 600})
    for attempt, steps in ((1, 3), (2, 8)):
        process = sweep.frozen(CELL, attempt, steps)
        subprocess.run(["scancel", "--signal=USR2", sweep.job(CELL)], check=True)
        os.kill(process, signal.SIGCONT)
        wait_for(lambda: sweep.said(CELL)[-1].get("end") == "again", "the end of the attempt", 60)
        assert len(checkpoints(sweep)) == attempt, "it stopped at a checkpoint that the recipe did not ask for"
        wait_for(lambda: sweep.cells()[CELL]["stage"] == "requeued", "requeued", 60)
    assert done(sweep) == quiet
    positions = [attempt["position"] for attempt in sweep.attempts(CELL)]
    assert len(positions) == len(set(positions)) == 3, "every attempt went on where the one before had stopped"


def test_time_is_up(cluster: Cluster, sweep: lab.Sweep, quiet: list[str]) -> None:
    """The training is frozen so that a minute passes without burning a core; Slurm's own signal comes, and it goes on."""
    sweep.submitted(profile={"minutes": 1})
    process = sweep.frozen(CELL, 1, 3)
    wait_for(lambda: "asking the training to stop" in sweep.log(CELL), "Slurm's signal", 90)
    os.kill(process, signal.SIGCONT)
    wait_for(lambda: {"end": "again"}.items() <= sweep.said(CELL)[-1].items() or len(sweep.attempts(CELL)) > 1, "its end", 60)
    # On a busy machine another minute may not be enough to start training in: once is what is looked for.
    subprocess.run(["scontrol", "update", f"JobId={sweep.job(CELL)}", "TimeLimit=60"], check=True)
    assert done(sweep) == quiet
    assert len(sweep.attempts(CELL)) == 2


def test_preempted_by_slurm_itself(cluster: Cluster, sweep: lab.Sweep, quiet: list[str]) -> None:
    """A job of a higher partition takes the cell's node: SIGTERM, some grace, and Slurm queues the cell again."""
    sweep.submitted()
    process = sweep.frozen(CELL, 1, 3)
    node = sweep.attempts(CELL)[0]["node"]
    urgent = subprocess.Popen(["srun", "-p", "urgent", "--nodelist", node, "--exclusive", "sleep", "1"])
    wait_for(lambda: "SIGTERM: asking the training to stop" in sweep.log(CELL), "Slurm's signal", 120)
    os.kill(process, signal.SIGCONT)
    assert done(sweep) == quiet
    assert urgent.wait(timeout=60) == 0
    positions = [attempt["position"] for attempt in sweep.attempts(CELL)]
    assert len(positions) == len(set(positions)) == 2


def test_a_node_dies(cluster: Cluster, sweep: lab.Sweep, quiet: list[str]) -> None:
    sweep.submitted()
    process = sweep.frozen(CELL, 1, 3)
    node = int(sweep.attempts(CELL)[0]["node"].removeprefix("node"))
    cluster.kill_node(node)
    wait_for(lambda: not Path(f"/proc/{process}").exists(), "the end of the training with its node", 10)
    assert done(sweep) == quiet
    nodes = [attempt["node"] for attempt in sweep.attempts(CELL)]
    assert len(nodes) == 2
    assert nodes[0] != nodes[1]
    cluster.start_node(node)


def test_started_twice_there_is_one_writer(cluster: Cluster, sweep: lab.Sweep, quiet: list[str]) -> None:
    """An orphan holds the run folder: the job waits for it, and finds the run complete."""
    sweep.write()
    orphan = lab.train(sweep.folder / CELL, "spac", 1)
    wait_for(lambda: (sweep.folder / CELL / ".owner.json").exists(), "the orphan's lock", 60)
    os.kill(orphan.pid, signal.SIGSTOP)
    assert sweep.submit().returncode == 0
    wait_for(lambda: "is in use by another process; waiting for it" in sweep.log(CELL), "the job at the lock", 60)
    os.kill(orphan.pid, signal.SIGCONT)
    _, said = orphan.communicate(timeout=120)
    assert orphan.returncode == 0, said
    assert done(sweep) == quiet
    wait_for(lambda: "is complete; nothing to do" in sweep.log(CELL), "the job's own look", 60)


def test_no_progress_is_an_error_and_no_loop(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.submitted(profile={"requeue": {"signal_seconds": 30, "attempts_without_progress": 2}})
    for attempt in (1, 2):
        wait_for(lambda: len(sweep.attempts(CELL)) == attempt, f"attempt {attempt}", 60)  # noqa: B023
        subprocess.run(["scancel", "--signal=USR2", sweep.job(CELL)], check=True)
    cell = sweep.ended()[CELL]
    assert cell["stage"] == "failed"
    assert "2 attempts in a row left nothing new" in cell["detail"]


def test_cancelled_and_retried_only_the_missing_are_done(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.submitted(seeds=[1, 2], profile={"parallelism": 1})
    wait_for(lambda: (sweep.folder / CELL / "results.json").exists(), "the first cell", 120)
    assert sweep.do("cancel")["cancelled"] == ["spac/seed-2"]
    wait_for(lambda: sweep.stages() == {"done", "cancelled"}, "the end of the second", 60)
    first = (sweep.folder / CELL / "results.json").stat().st_mtime_ns
    table = sweep.do("collect")
    assert table["missing"] == ["spac/seed-2"]
    assert {(row["seeds"], row["missing_seeds"]) for row in table["rows"]} == {(1, "2")}
    again = sweep.do("retry")
    assert again["submitted"] == ["spac/seed-2"]
    assert {cell["stage"] for cell in sweep.ended().values()} == {"done"}
    assert (sweep.folder / CELL / "results.json").stat().st_mtime_ns == first
