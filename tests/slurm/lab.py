"""Sweeps of `tiny` cut down to seconds, and the command line that runs them."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cluster import wait_for

from spac_repro.launchers.sweep_folder import attempts

Direct = Callable[[int], dict[str, Path]]

METHODS = ("spac", "dpo")
SETTINGS: dict[str, Any] = {
    "supervised_start.num_demonstrations": 768,  # 24 steps: enough to stop in the midst of them
    "supervised_start.epochs": 1,
    "data.max_pairs": 24,
    "selfplay.prompts_per_seed": 8,
    "training.iterations": 1,
    "training.epochs_per_iteration": 1,
    "training.global_batch_size": 4,  # six steps an iteration
    "evaluation.suite": "none",
    "evaluation.gold_prompts": 8,
    "evaluation.heldout_pairs": 8,
}
PROFILE: dict[str, Any] = {
    "summary": "the test's cluster",
    "scheduler": "slurm",
    "minutes": 30,
    "max_parallel_runs": 2,
    "requeue": {"signal_seconds": 30},
}


def run(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A command of spac-repro."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "spac_repro", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


@functools.cache
def direct(folder: Path, seed: int) -> dict[str, Path]:
    """What `train` gives of a seed, by method, where no cluster runs it and nothing disturbs it: the run folders."""
    runs = {method: folder / method / f"seed-{seed}" for method in METHODS}
    for process in [train(run, method, seed) for method, run in runs.items()]:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    return runs


def train(out: Path, method: str, seed: int) -> subprocess.Popen[str]:
    """`train` of a run without any cluster."""
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "spac_repro", "train", "--method", method, "--seed", str(seed), "--out", str(out), *sets]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


def weights(folder: Path) -> list[str]:
    """The hashes of a finished run's iterates."""
    return [iterate["weights_sha256"] for iterate in json.loads((folder / "results.json").read_text())["iterations"]]


class Sweep:
    """A sweep of one test."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "runs.yaml"
        self.profile = folder / "lab.yaml"
        self.folder = folder / "sweep"
        self.disk = folder / "disk"  # where a node has a folder of its own name

    def write(self, *, profile: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **more: Any) -> None:
        sweep = {"name": "runs", "summary": "runs of a test", "recipe": "tiny", "seeds": [1], "methods": ["spac"]}
        self.file.write_text(yaml.safe_dump({**sweep, "settings": {**SETTINGS, **(settings or {})}, **more}))
        self.profile.write_text(yaml.safe_dump({**PROFILE, **(profile or {})}))

    def submit(self, *more: str) -> subprocess.CompletedProcess[str]:
        return run("sweep", "submit", self.file, "--cluster", self.profile, "--out", self.folder, *more)

    def submitted(self, **what: Any) -> None:
        self.write(**what)
        done = self.submit()
        assert done.returncode == 0, done.stderr

    def do(self, command: str) -> dict[str, Any]:
        done = run("sweep", command, self.folder, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def runs(self) -> dict[str, dict[str, Any]]:
        return {run["run"]: run for run in self.do("status")["runs"]}

    def states(self) -> set[str]:
        return {run["state"] for run in self.runs().values()}

    def job(self, run: str, task: str = "run") -> str:
        return str(json.loads((self.folder / "sweep.json").read_text())["jobs"][task][run])

    def queued(self, *more: str) -> bool:
        """Whether Slurm has any of its jobs in the queue. `status` knows more, and takes a second of a core that the runs need."""
        jobs = json.loads((self.folder / "sweep.json").read_text())["jobs"]
        ours = {job.partition("_")[0] for by_run in jobs.values() for job in by_run.values()}
        queue = subprocess.run(["squeue", "-h", "-o", "%F", *more], capture_output=True, text=True, check=True).stdout
        return bool(ours & set(queue.split()))

    def ended(self, seconds: float = 240) -> dict[str, dict[str, Any]]:
        """Wait until no run waits or runs."""
        deadline = time.monotonic() + seconds
        while True:
            wait_for(lambda: not self.queued(), "the end of its jobs", seconds)
            runs = self.runs()
            if not {"pending", "running", "requeued"} & {run["state"] for run in runs.values()}:
                return runs
            assert time.monotonic() < deadline, runs
            time.sleep(1)

    def log(self, run: str) -> str:
        """What the run's job said, on all of its nodes."""
        return "".join(file.read_text() for file in sorted((self.folder / "jobs").glob(f"{self.job(run)}_*_log.err")))

    def said(self, run: str) -> list[dict[str, Any]]:
        """What the run's jobs said of themselves."""
        return attempts(self.folder / "jobs" / "attempts" / f"run-{run.replace('/', ',')}.jsonl")

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """Where each attempt began, and on which node."""
        return [line for line in self.said(run) if "position" in line]

    def steps(self, run: str) -> int:
        try:
            return len((self.folder / run / "metrics.jsonl").read_text().splitlines())
        except FileNotFoundError:
            return 0

    def frozen(self, run: str, attempt: int, steps: int) -> int:
        """Wait until an attempt has taken so many steps, and freeze its training there; its process."""
        owner = self.folder / run / ".owner.json"
        wait_for(lambda: len(self.attempts(run)) == attempt, f"attempt {attempt}", 120)
        wait_for(lambda: owner.exists() and self.steps(run) >= steps, f"step {steps}", 120)
        process = int(json.loads(owner.read_text())["process"])
        os.kill(process, signal.SIGSTOP)
        assert not (self.folder / run / "results.json").exists(), "the run ended before it could be disturbed"
        return process
