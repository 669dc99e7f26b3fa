"""Time of `sweep submit`, `sweep status` and `sweep collect` for 1,000 runs, with a real Slurm controller on this machine.

    python bench/sweep.py        (as root: it starts the cluster of tests/slurm, and stops it at the end)

The partition is down, so no job runs. Status is timed twice: with every run pending, and with every run done (this script writes
results of the size of recipe tiny's). Each figure is the wall and CPU time of a command.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "slurm"))

from cluster import Cluster, install

from spac_repro import methods
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA
from spac_repro.runs.results import IterateScores, Results, Score

SEEDS, METHODS = range(1, 201), list(methods.names())
TASKS = ["mini_copy", "mini_reverse", "mini_sort", "mini_add", "mini_even", "average", "gold"]


def time_command(*arguments: str | Path) -> tuple[str, str]:
    """Return a command's wall and CPU time, and its standard output."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-m", "spac_repro", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wall, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return f"{wall:.1f} s ({cpu:.1f} s of CPU)", done.stdout


def write_results(folder: Path) -> None:
    """Write manifest and results of every run."""
    parts: dict[str, Any] = {"settings": {}, "inputs": {}, "environment": {}}
    scores = tuple(Score(task, "acc", 0.5, 0.01, 500) for task in TASKS)
    iterates = tuple(IterateScores(iteration=t, weights_sha256="0" * 64, scores=scores) for t in range(4))
    rest: dict[str, Any] = {"complete": True, "settings_sha256": "0" * 64, "weights_sha256": "0" * 64, "iterations": iterates}
    for seed in SEEDS:
        for method in METHODS:
            run = RunFolder(folder / method / f"seed-{seed}")
            identity: dict[str, Any] = {"recipe": "tiny", "method": method, "seed": seed}
            files.write_json(run.manifest_file, {"schema": SCHEMA, **identity, **parts})
            files.write_json(run.results_file, Results(**identity, **rest).as_json())


def main() -> None:
    install()
    cluster = Cluster(port=20000 + os.getpid() % 10000)
    try:
        cluster.up()
        cluster.ask("scontrol", "update", "partition=main", "state=down")
        with tempfile.TemporaryDirectory() as place:
            sweep, profile, folder = Path(place) / "sweep.yaml", Path(place) / "lab.yaml", Path(place) / "sweep"
            what = {"name": "thousand", "summary": "1,000 runs", "recipe": "tiny", "seeds": list(SEEDS), "methods": METHODS}
            sweep.write_text(yaml.safe_dump(what))
            profile.write_text(yaml.safe_dump({"summary": "bench", "scheduler": "slurm", "minutes": 60, "max_parallel_runs": 2}))
            submit, output = time_command("sweep", "submit", sweep, "--cluster", profile, "--out", folder, "--json")
            assert json.loads(output)["runs"] == {"pending": 1000}, output
            arrays = set(cluster.ask("squeue", "-h", "-o", "%F").split())
            print(f"submit 1,000 runs and 200 shared starts, in {len(arrays)} arrays: {submit}", flush=True)
            waiting, _ = time_command("sweep", "status", folder)
            print(f"status, all waiting: {waiting}", flush=True)
            write_results(folder)
            done, output = time_command("sweep", "status", folder, "--json")
            assert {run["state"] for run in json.loads(output)["runs"]} == {"done"}
            collect, _ = time_command("sweep", "collect", folder, "--json")
        print(f"status, all done: {done}\ncollect: {collect}")
    finally:
        cluster.down()


if __name__ == "__main__":
    main()
