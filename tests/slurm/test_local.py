"""The same sweep on this machine, through submitit's local executor: no Slurm, and the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lab
from cluster import wait_for

LOCAL = {"scheduler": "local", "max_parallel_runs": 2}


def test_runs_that_share_a_start_have_the_bits_of_a_direct_run(sweep: lab.Sweep, direct: lab.Direct) -> None:
    sweep.write(profile=LOCAL, methods=list(lab.METHODS))
    done = sweep.submit()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "start of spac/seed-1: done"
    assert sweep.states() == {"done"}
    for method, alone in direct(1).items():
        assert lab.weights(sweep.folder / method / "seed-1") == lab.weights(alone)


def test_a_failing_run_says_why_and_the_others_go_on(sweep: lab.Sweep) -> None:
    sweep.write(profile=LOCAL, seeds=[1, 2])
    (sweep.folder / "spac" / "seed-1").mkdir(parents=True)
    (sweep.folder / "spac" / "seed-1" / "notes.txt").write_text("mine")
    done = sweep.submit()
    assert done.returncode == 1
    runs = sweep.runs()
    assert runs["spac/seed-1"]["state"] == "failed"
    assert "has files but no manifest.json" in runs["spac/seed-1"]["detail"]
    assert runs["spac/seed-2"]["state"] == "done"
    (sweep.folder / "spac" / "seed-1" / "notes.txt").unlink()
    again = lab.run("sweep", "retry", sweep.folder, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["submitted"] == ["spac/seed-1"]


def test_interrupted_it_stops_its_runs_at_a_checkpoint(sweep: lab.Sweep) -> None:
    sweep.write(profile=LOCAL)
    command = [sys.executable, "-m", "spac_repro", "sweep", "submit", sweep.file, "--cluster", sweep.profile, "--out", sweep.folder]
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    training = sweep.frozen("spac/seed-1", 1, 3)
    process.send_signal(signal.SIGINT)
    os.kill(training, signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    wait_for(lambda: not Path(f"/proc/{training}").exists(), "the end of the training", 20)
    assert sweep.states() == {"cancelled"}
    assert list((sweep.folder / "spac/seed-1").glob("iteration-*/training/step-*"))
