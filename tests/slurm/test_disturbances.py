"""Runs that are timed out, preempted, killed with their node, started twice and cancelled: the bits are those of a quiet run.

All are disturbed at once, each by a thread of its own, since most of that is waiting: for a minute to pass, a node to be missed,
a job to be queued again. The tests then look at what became of each.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lab
import psutil
import pytest
from cluster import Cluster, wait_for

RUN = "spac/seed-1"
PATIENCE = 180  # seconds, for what takes few on an idle machine: here many runs share it

Disturbed = Callable[[str], lab.Sweep]


def time_is_up(cluster: Cluster, sweep: lab.Sweep, frozen: Callable[[], None]) -> None:
    """The training is frozen so that a minute passes without burning a core; Slurm's own signal comes, and it goes on."""
    # Slurm may send it half a minute early: with 10 s, not so early that the run has taken no step.
    sweep.submitted(profile={"minutes": 1, "requeue": {"signal_seconds": 10}, "exclude": "node[1-3]"})
    process = sweep.frozen(RUN, 1, 3)
    frozen()
    wait_for(lambda: "telling the training to stop" in sweep.log(RUN), "Slurm's signal", 90)
    os.kill(process, signal.SIGCONT)
    wait_for(lambda: {"end": "again"}.items() <= sweep.said(RUN)[-1].items() or len(sweep.attempts(RUN)) > 1, "its end", 60)
    # On a busy machine another minute may not be enough to start training in: once is what is looked for.
    subprocess.run(["scontrol", "update", f"JobId={sweep.job(RUN)}", "TimeLimit=60"], check=True)


def preempted_twice(cluster: Cluster, sweep: lab.Sweep) -> None:
    """A long limit, and the signal early: submitit would call the first kind a preemption, and a short limit a timeout."""
    surroundings = {
        "setup": [f"export NODE_DISK={sweep.disk}/$SLURMD_NODENAME"],
        "scratch": "$NODE_DISK",
        "environment": {"OF_THE_PROFILE": "two words"},
    }
    sweep.submitted(profile={"minutes": 600, "exclude": "node[1-3]", **surroundings})
    for attempt, steps in ((1, 3), (2, 8)):
        process = sweep.frozen(RUN, attempt, steps)
        (sweep.disk / "variables.json").write_text(json.dumps(psutil.Process(process).environ()))
        run = sweep.runs()[RUN]
        assert (run["state"], run["attempts"]) == ("running", attempt)
        assert re.fullmatch(r"the start policy, step \d+", run["detail"])
        subprocess.run(["scancel", "--signal=USR2", sweep.job(RUN)], check=True)
        os.kill(process, signal.SIGCONT)
        wait_for(lambda: sweep.said(RUN)[-1].get("end") == "again", "the end of the attempt", PATIENCE)
        assert len(checkpoints(sweep)) == attempt, "it stopped at a checkpoint that the recipe did not ask for"
        wait_for(lambda: sweep.queued("--states=PENDING"), "its place in the queue", PATIENCE)
        subprocess.run(["scontrol", "hold", sweep.job(RUN)], check=True)  # it would begin again while `status` looks
        assert sweep.runs()[RUN]["state"] == "requeued"
        subprocess.run(["scontrol", "release", sweep.job(RUN)], check=True)


def preempted_by_slurm(cluster: Cluster, sweep: lab.Sweep) -> None:
    """A job of a higher partition takes the run's node: SIGTERM, some grace, and Slurm queues the run again."""
    sweep.submitted(profile={"exclude": "node[0,2-3]"})
    process = sweep.frozen(RUN, 1, 3)
    urgent = subprocess.Popen(["srun", "-p", "urgent", "--nodelist", "node1", "--exclusive", "sleep", "1"])
    wait_for(lambda: "SIGTERM: telling the training to stop" in sweep.log(RUN), "Slurm's signal", PATIENCE)
    os.kill(process, signal.SIGCONT)
    assert urgent.wait(timeout=PATIENCE) == 0


def node_died(cluster: Cluster, sweep: lab.Sweep) -> None:
    """With slurmd and its steps."""
    sweep.submitted(profile={"exclude": "node[0-1]"})
    process = sweep.frozen(RUN, 1, 3)
    node = int(sweep.attempts(RUN)[0]["node"].removeprefix("node"))
    cluster.kill_node(node)
    wait_for(lambda: not Path(f"/proc/{process}").exists(), "the end of the training with its node", 10)
    wait_for(lambda: len(sweep.attempts(RUN)) == 2, "its second beginning", PATIENCE)
    cluster.start_node(node)


def started_twice(cluster: Cluster, sweep: lab.Sweep) -> None:
    """An orphan holds the run folder: the job waits for it, and finds the run complete."""
    sweep.write(profile={"exclude": "node[1-3]"})
    orphan = lab.train(sweep.folder / RUN, "spac", 1)
    wait_for(lambda: (sweep.folder / RUN / ".owner.json").exists(), "the orphan's lock", PATIENCE)
    os.kill(orphan.pid, signal.SIGSTOP)
    assert sweep.submit().returncode == 0
    wait_for(lambda: "is in use by another process; waiting for it" in sweep.log(RUN), "the job at the lock", PATIENCE)
    os.kill(orphan.pid, signal.SIGCONT)
    _, said = orphan.communicate(timeout=PATIENCE)
    assert orphan.returncode == 0, said


def signalled_before_any_step(cluster: Cluster, sweep: lab.Sweep) -> None:
    """Slurm's signal finds the job at the lock of its run folder, which a frozen process holds: no attempt takes a step."""
    sweep.write(profile={"requeue": {"signal_seconds": 30, "attempts_without_progress": 2}, "exclude": "node[1-3]"})
    orphan = lab.train(sweep.folder / RUN, "spac", 1)
    wait_for(lambda: (sweep.folder / RUN / ".owner.json").exists(), "the orphan's lock", PATIENCE)
    os.kill(orphan.pid, signal.SIGSTOP)
    assert sweep.submit().returncode == 0
    for attempt in (1, 2):
        wait_for(lambda: len(sweep.attempts(RUN)) == attempt, f"attempt {attempt}", PATIENCE)  # noqa: B023
        subprocess.run(["scancel", "--signal=USR2", sweep.job(RUN)], check=True)
    wait_for(lambda: sweep.said(RUN)[-1].get("end") == "failed", "the end of the run", PATIENCE)
    orphan.kill()
    orphan.communicate()


DISTURBANCES = (preempted_twice, preempted_by_slurm, node_died, started_twice, signalled_before_any_step)


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disturbed]:
    """The sweep of a disturbance once that is over; its run may still be at work.

    Each run has a node of its own kind of trouble, or shares node0, so that what befalls one spares the others.
    """
    # The run with a minute to live comes first, alone, and the others when it has taken its steps.
    with ThreadPoolExecutor(1 + len(DISTURBANCES)) as threads:
        sweeps: dict[str, lab.Sweep] = {}
        running: dict[str, Future[Any]] = {}

        def begin(disturb: Callable[..., None], *more: Any) -> None:
            name = disturb.__name__
            sweeps[name] = lab.Sweep(tmp_path_factory.mktemp(name))
            running[name] = threads.submit(disturb, cluster, sweeps[name], *more)

        def others() -> None:
            for disturb in DISTURBANCES:
                begin(disturb)

        begin(time_is_up, others)

        def over(name: str) -> lab.Sweep:
            if name not in running:
                running["time_is_up"].result()
            running[name].result()
            return sweeps[name]

        yield over


@pytest.fixture(scope="module")
def quiet(direct: lab.Direct) -> list[str]:
    """The hashes of the run's iterates where nothing disturbs it."""
    return lab.weights(direct(1)["spac"])


def done(sweep: lab.Sweep) -> list[str]:
    """The hashes of the run, once it is done."""
    runs = sweep.ended()
    assert runs[RUN]["state"] == "done", (runs, sweep.log(RUN))
    return lab.weights(sweep.folder / RUN)


def positions(sweep: lab.Sweep) -> list[str]:
    """Where its attempts began: none where the one before did, if each went on where that had stopped."""
    return [attempt["position"] for attempt in sweep.attempts(RUN)]


def checkpoints(sweep: lab.Sweep) -> list[str]:
    return sorted(path.name for path in (sweep.folder / RUN).glob("iteration-*/training/step-*"))


def test_requeued_near_the_time_limit(quiet: list[str], disturbed: Disturbed) -> None:
    sweep = disturbed("time_is_up")
    assert done(sweep) == quiet
    assert len(positions(sweep)) == len({*positions(sweep)}) == 2


def test_preempted_twice(quiet: list[str], disturbed: Disturbed) -> None:
    sweep = disturbed("preempted_twice")
    assert done(sweep) == quiet
    assert len(positions(sweep)) == len({*positions(sweep)}) == 3


def test_setup_and_environment_of_the_profile_reach_the_training(disturbed: Disturbed) -> None:
    """Caches on the node's own disk, the profile's variables, and the hub switched off."""
    sweep = disturbed("preempted_twice")
    variables = json.loads((sweep.disk / "variables.json").read_text())
    scratch = Path(variables["XDG_CACHE_HOME"]).parent
    assert scratch.parent == sweep.disk / "node0"
    assert not scratch.exists()  # it was for one attempt
    for name in ("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR"):
        assert Path(variables[name]).parent == scratch
    assert {variables[name] for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")} == {"1"}
    assert variables["OF_THE_PROFILE"] == "two words"


def test_preempted_by_slurm_itself(quiet: list[str], disturbed: Disturbed) -> None:
    sweep = disturbed("preempted_by_slurm")
    assert done(sweep) == quiet
    assert len(positions(sweep)) == len({*positions(sweep)}) == 2


def test_a_node_dies(quiet: list[str], disturbed: Disturbed) -> None:
    sweep = disturbed("node_died")
    assert done(sweep) == quiet
    nodes = [attempt["node"] for attempt in sweep.attempts(RUN)]
    assert len(nodes) == len({*nodes}) == 2


def test_a_run_that_is_started_twice_has_one_writer(quiet: list[str], disturbed: Disturbed) -> None:
    sweep = disturbed("started_twice")
    assert done(sweep) == quiet
    wait_for(lambda: "is complete; nothing to do" in sweep.log(RUN), "the job's own look", 60)


def test_no_progress_fails_the_run(disturbed: Disturbed) -> None:
    run = disturbed("signalled_before_any_step").ended()[RUN]
    assert run["state"] == "failed"
    assert "2 attempts in a row made no progress" in run["detail"]


def test_retry_after_cancel_resumes_only_unfinished_runs(cluster: Cluster, sweep: lab.Sweep) -> None:
    sweep.submitted(seeds=[1, 2], profile={"max_parallel_runs": 1})
    wait_for(lambda: (sweep.folder / RUN / "results.json").exists(), "the first run", PATIENCE)
    assert sweep.do("cancel")["cancelled"] == ["spac/seed-2"]
    wait_for(lambda: sweep.states() == {"done", "cancelled"}, "the end of the second", 60)
    first = (sweep.folder / RUN / "results.json").stat().st_mtime_ns
    table = sweep.do("collect")
    assert table["missing"] == ["spac/seed-2"]
    assert {(row["seeds"], row["missing_seeds"]) for row in table["rows"]} == {(1, "2")}
    again = sweep.do("retry")
    assert again["submitted"] == ["spac/seed-2"]
    assert {run["state"] for run in sweep.ended().values()} == {"done"}
    assert (sweep.folder / RUN / "results.json").stat().st_mtime_ns == first
