"""In the job: one process a node, which watches over the training that it starts.

Slurm's signals reach this process and the training. The training stops at a checkpoint and exits; what then becomes of the job is
decided here, from the signals themselves:

SIGUSR2  the time is nearly up, or the job is preempted, and wants to be queued again: the batch script does that (scontrol need
         not exist in a container), told so by a file named after the job.
SIGTERM  the job is cancelled, or preempted by a Slurm that queues it again itself: nothing to do but to wait for the end.

So nothing hangs on whether submitit takes a signal for a timeout or a preemption, nor on how often it lets a job time out.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

from spac_repro.launchers import ledger
from spac_repro.runs.folder import RunFolder

INTERRUPTED = 130  # what training exits with when it stopped because it was asked to
AGAIN_LOCALLY = 144  # what submitit's local executor takes as the wish to be started again
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
REPEAT_SECONDS = 5.0  # a process that was starting when a signal came has not heard it


class JobError(RuntimeError):
    """The cell failed; the message is its last line."""


@dataclass
class Job:
    """One task of one cell, as submitit pickles it: nothing but plain values."""

    cell: str
    arguments: list[str]  # of `train`
    folder: Path  # the run's
    attempts: Path  # where to say what happens
    job_folder: Path
    nodes: int
    environment: dict[str, str]
    attempts_without_progress: int
    start: Path | None = None  # the run that iteration 0 is shared with
    scratch: str | None = None
    cache: str | None = None
    _heard: set[int] = field(default_factory=set)

    def __call__(self) -> None:
        """Carry out the task, or what of it is not there yet.

        Raises:
            JobError: training failed; the start that it needs failed; attempts leave nothing new.
            SystemExit: the job is to be queued again.
        """
        for number in SIGNALS:
            signal.signal(number, self._hear)
        try:
            self._begin()
            self._wait_for_the_owner()
            code, last_line = self._train()
            end = self._end(code, last_line)
        except JobError as error:
            self._say(end="failed", error=str(error))
            raise
        self._say(end=end)
        if end == "stopped":
            self._wait_for_the_end()
        if end == "again":
            self._again()

    # The stages of an attempt

    def _begin(self) -> None:
        position = progress(self.folder)
        before = [line for line in ledger.attempts(self.attempts) if line["job"] == _job_id() and "position" in line]
        standing = 1 + next((n for n, line in enumerate(reversed(before)) if line["position"] != position), len(before))
        self._say(position=position)
        if standing > self.attempts_without_progress:
            raise JobError(
                f"{self.attempts_without_progress} attempts in a row left nothing new; "
                "give the job more time, or training.save_steps less steps, then `spac-repro sweep retry`"
            )
        if self.cache is not None:
            _verify(Path(self.cache))
        if self.start is not None and not RunFolder(self.start).iteration(0).finished:
            raise JobError(f"the start that it shares is not in {self.start}; see that cell's error, then `spac-repro sweep retry`")

    def _wait_for_the_owner(self) -> None:
        """After a node's death its orphan may still be at work in the run folder: the lock there decides, and this waits."""
        waiting = False
        while _rank() == 0 and not self._heard and RunFolder(self.folder).in_use:
            if not waiting:
                print(f"{self.folder} is in use by another process; waiting for it", file=sys.stderr, flush=True)
                waiting = True
            time.sleep(1)

    def _train(self) -> tuple[int, str]:
        """Run training to its end; its exit code and the last line it said."""
        if self._heard:
            return INTERRUPTED, ""
        child = subprocess.Popen(
            self._command(),
            env={**os.environ, **self._variables()},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_as_a_child,
        )
        lines = _Lines(child.stderr)
        asked = 0.0
        while (code := child.poll()) is None:
            if self._heard and time.monotonic() - asked > REPEAT_SECONDS:
                names = ", ".join(signal.Signals(number).name for number in sorted(self._heard))
                print(f"[{_node()}] {names}: asking the training to stop", file=sys.stderr, flush=True)
                child.send_signal(signal.SIGUSR2)  # where it started several, it hands that on
                asked = time.monotonic()
            time.sleep(0.1)
        return code, lines.last()

    def _end(self, code: int, last_line: str) -> str:
        """What an exit code means for the job: done, again (queue it), stopped (somebody else ends it)."""
        if code == 0 or (code == 1 and RunFolder(self.folder).complete):  # 1: done, and the numbers disagree
            return "done"
        if self._heard and code in (INTERRUPTED, -signal.SIGUSR2, -signal.SIGTERM):
            return "again" if signal.SIGUSR2 in self._heard else "stopped"
        raise JobError(last_line.removeprefix("spac-repro: ") or f"training ended with exit code {code} and said nothing")

    def _wait_for_the_end(self) -> None:
        """After SIGTERM Slurm ends the job, or asks for more with SIGUSR2; a job that ended by itself would not be queued again."""
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            raise SystemExit(INTERRUPTED)
        deadline = time.monotonic() + 3600
        while signal.SIGUSR2 not in self._heard and time.monotonic() < deadline:
            time.sleep(0.2)
        if signal.SIGUSR2 in self._heard:
            self._say(end="again")
            self._again()

    def _again(self) -> None:
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            raise SystemExit(AGAIN_LOCALLY)
        if _rank() == 0:
            again_file(self.job_folder, os.environ["SLURM_JOB_ID"]).touch()
        raise SystemExit(0)

    # What they share

    def _hear(self, number: int, frame: object) -> None:
        self._heard.add(number)

    def _command(self) -> list[str]:
        train = ["spac_repro", "train", "--out", str(self.folder), *self.arguments]
        if self.start is not None:
            train += ["--start-from", str(self.start)]
        return [sys.executable, "-m", *train]

    def _variables(self) -> dict[str, str]:
        variables = dict(self.environment)
        if self.nodes > 1:  # the rendezvous of the processes that `train` starts on each, in torchrun's own words
            variables |= {"PET_NNODES": str(self.nodes), "PET_NODE_RANK": str(_rank()), "PET_MASTER_PORT": str(_port())}
            variables["PET_MASTER_ADDR"] = os.environ["SLURM_LAUNCH_NODE_IPADDR"]
        if self.cache is not None:
            variables["HF_HOME"] = self.cache
        if self.scratch is not None:
            scratch = Path(os.path.expandvars(self.scratch)) / f"spac-repro-{os.getuid()}"
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = ("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
            variables |= {name: str(scratch / name.lower()) for name in names}
        return variables

    def _say(self, **what: Any) -> None:
        if _rank() != 0:
            return
        self.attempts.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"job": _job_id(), "node": _node(), "at": round(time.time(), 1), **what})
        with self.attempts.open("a") as file:
            file.write(line + "\n")


def _verify(cache: Path) -> None:
    from spac_repro import prefetch
    from spac_repro.errors import UserError

    try:
        prefetch.verify(cache)
    except UserError as error:
        raise JobError(str(error)) from None


def progress(folder: Path) -> str:
    """A hash of what a run has to show: its finished iterates, scores, checkpoints and self-play batches, by name."""
    return sha256("\n".join(RunFolder(folder).artifacts()).encode()).hexdigest()[:16]


def again_file(job_folder: Path, slurm_job: str) -> Path:
    """A file that asks the batch script to queue its job again."""
    return job_folder / f"again-{slurm_job}"


class _Lines:
    """Passes on what a process says, and remembers the last line."""

    def __init__(self, stream: Any) -> None:
        self._last = ""
        self._thread = Thread(target=self._pass_on, args=(stream,), daemon=True)
        self._thread.start()

    def _pass_on(self, stream: Iterator[str]) -> None:
        for line in stream:
            print(line, end="", file=sys.stderr, flush=True)
            self._last = line.strip() or self._last

    def last(self) -> str:
        self._thread.join(timeout=5)
        return self._last


def _as_a_child() -> None:
    """In the child before Python starts: no death by a signal that it cannot handle yet, and none of it left behind by ours."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0"))


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _job_id() -> str:
    """The job as the ledger names it: that of an array with the place in it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    alone = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else alone


def _port() -> int:
    """A port that the nodes of a job agree on, and other jobs on these nodes hardly take."""
    return 20000 + int(os.environ.get("SLURM_JOB_ID", os.getpid())) % 20000
