"""The job of a run: one process per node, which starts the training and supervises it (docs/decisions/07-sweeps.md).

Slurm's signals reach this process and the training. The training stops at a checkpoint and exits. Then the signals decide what
happens to the job:

SIGUSR2  The time limit is near, or the job is preempted. It must be requeued: a file named after the job tells the batch script to
         do so, because a container may lack scontrol.
SIGTERM  The job is cancelled, or preempted by a Slurm that requeues it by itself. This process waits until Slurm ends it.

So it does not matter whether submitit takes a signal for a timeout or a preemption, nor how many timeouts it allows.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from spac_repro.documents.errors import one_line
from spac_repro.launchers import sealed, sweep_folder
from spac_repro.optim import gpu_host
from spac_repro.runs.folder import RunFolder

EXIT_INTERRUPTED = 130  # training stopped because of a signal
EXIT_REQUEUE_LOCAL = 144  # submitit's local executor starts the job again
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
REPEAT_SECONDS = 5.0  # the signal is sent again, because a process that was just starting has missed it


class JobError(RuntimeError):
    """The run failed. The message is the last line of its output, or says what is wrong."""


@dataclass
class Job:
    """One task of one run. submitit pickles it, so it holds only plain values.

    Attributes:
        run: name of the run.
        arguments: arguments of `train`.
        run_folder: the run's folder.
        attempts_file: log of the attempts at this task.
        job_folder: folder of submitit's pickles and logs.
        nodes: number of nodes.
        environment: environment variables of the training.
        attempts_without_progress: after this many attempts in a row without progress, the run fails.
        start_from: the run whose start policy is used; None: this run makes its own.
        scratch: where each attempt makes a folder for caches, on the node's own disk; may contain variables.
        cache: folder that `prefetch` filled.
    """

    run: str
    arguments: list[str]
    run_folder: Path
    attempts_file: Path
    job_folder: Path
    nodes: int
    environment: dict[str, str]
    attempts_without_progress: int
    start_from: Path | None = None
    scratch: str | None = None
    cache: str | None = None
    _signals: set[int] = field(default_factory=set)  # received

    def __call__(self) -> None:
        """Carry out the task, or resume it.

        Raises:
            JobError: training failed, the start policy is missing, or attempts make no progress.
            SystemExit: the job must be requeued.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            self._begin_attempt()
            self._wait_for_lock()
            code, last_line = self._train()
            end = self._outcome(code, last_line)
        except JobError as error:
            self._log_attempt(end="failed", error=str(error))
            raise
        self._log_attempt(end=end)
        if end == "stopped":
            self._wait_for_slurm()
        if end == "again":
            self._requeue()

    # The stages of an attempt

    def _begin_attempt(self) -> None:
        position = progress_sha256(self.run_folder)
        begun = [line for line in sweep_folder.attempts(self.attempts_file) if line["job"] == _job_id() and "position" in line]
        unchanged = 1 + next((n for n, line in enumerate(reversed(begun)) if line["position"] != position), len(begun))
        self._log_attempt(position=position)
        if unchanged > self.attempts_without_progress:
            raise JobError(
                f"{self.attempts_without_progress} attempts in a row made no progress; "
                "increase the job's time limit or decrease training.save_steps, then `spac-repro sweep retry`"
            )
        if self.cache is not None:
            verify_cache(Path(self.cache))
        if self.start_from is not None and not RunFolder(self.start_from).iteration(0).finished:
            raise JobError(f"there is no start policy in {self.start_from}; see that run's error, then `spac-repro sweep retry`")

    def _wait_for_lock(self) -> None:
        """Wait while another process has the lock of the run folder: after a node's death, one may still be at work there."""
        waiting = False
        while rank() == 0 and not self._signals and RunFolder(self.run_folder).in_use:
            if not waiting:
                print(f"{self.run_folder} is in use by another process; waiting for it", file=sys.stderr, flush=True)
                waiting = True
            time.sleep(1)

    def _train(self) -> tuple[int, str]:
        """Run training to its end. Return its exit code and the last line of its error output."""
        if self._signals:
            return EXIT_INTERRUPTED, ""
        with _scratch_folder(_scratch_place(self.scratch)) as scratch:
            return self._run_training({**os.environ, **self._environment(scratch)})

    def _run_training(self, environment: dict[str, str]) -> tuple[int, str]:
        child = subprocess.Popen(
            self._command(),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=prepare_child,
        )
        output = OutputForwarder(child.stderr)
        signalled = 0.0
        while (code := child.poll()) is None:
            if self._signals and time.monotonic() - signalled > REPEAT_SECONDS:
                self._report_signals()
                child.send_signal(signal.SIGUSR2)  # `train` passes it on to the processes that it started
                signalled = time.monotonic()
            time.sleep(0.1)
        if self._signals and not signalled:  # Slurm signals the training too, which stopped before this process looked
            self._report_signals()
        return code, output.last_line()

    def _report_signals(self) -> None:
        names = ", ".join(signal.Signals(number).name for number in sorted(self._signals))
        print(f"[{_node()}] {names}: telling the training to stop", file=sys.stderr, flush=True)

    def _outcome(self, code: int, last_line: str) -> str:
        """Tell from training's exit code how the attempt ended: "done", "again" (requeue), or "stopped" (Slurm ends the job)."""
        if code == 0 or (code == 1 and RunFolder(self.run_folder).complete):  # 1: the numbers disagree
            return "done"
        if self._signals and code in (EXIT_INTERRUPTED, -signal.SIGUSR2, -signal.SIGTERM):
            return "again" if signal.SIGUSR2 in self._signals else "stopped"
        raise JobError(one_line(last_line.removeprefix("spac-repro: ")) or f"training ended with exit code {code} and no output")

    def _wait_for_slurm(self) -> None:
        """Wait for Slurm to end the job or to send SIGUSR2. Slurm does not requeue a preempted job that exits by itself."""
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            raise SystemExit(EXIT_INTERRUPTED)
        deadline = time.monotonic() + 3600
        while signal.SIGUSR2 not in self._signals and time.monotonic() < deadline:
            time.sleep(0.2)
        if signal.SIGUSR2 in self._signals:
            self._log_attempt(end="again")
            self._requeue()

    def _requeue(self) -> None:
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            raise SystemExit(EXIT_REQUEUE_LOCAL)
        if rank() == 0:
            requeue_file(self.job_folder, os.environ["SLURM_JOB_ID"]).touch()
        raise SystemExit(0)

    # Shared by the stages

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals.add(number)

    def _command(self) -> list[str]:
        train = ["spac_repro", "train", "--out", str(self.run_folder), *self.arguments]
        if self.start_from is not None:
            train += ["--start-from", str(self.start_from)]
        return [sys.executable, "-P", "-m", *train]  # -P: a module in the working directory is never imported

    def _environment(self, scratch: Path | None) -> dict[str, str]:
        variables = dict(self.environment)
        if self.nodes > 1:  # torchrun's variables: where the processes that `train` starts on each node meet
            variables |= {"PET_NNODES": str(self.nodes), "PET_NODE_RANK": str(rank()), "PET_MASTER_PORT": str(_port())}
            variables["PET_MASTER_ADDR"] = os.environ["SLURM_LAUNCH_NODE_IPADDR"]
        if self.cache is not None:
            variables["HF_HOME"] = self.cache
        if scratch is not None:
            names = ("XDG_CACHE_HOME", *gpu_host.CACHE_VARIABLES, "TORCH_EXTENSIONS_DIR")
            variables |= {name: str(scratch / name.lower()) for name in names}
        return variables

    def _log_attempt(self, **fields: Any) -> None:
        if rank() != 0:
            return
        self.attempts_file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"job": _job_id(), "node": _node(), "at": round(time.time(), 1), **fields})
        with self.attempts_file.open("a") as file:
            file.write(line + "\n")


def _scratch_place(scratch: str | None) -> Path | None:
    """Where to make a folder for caches: what the profile says, or what the command that started the container has prepared.

    Raises:
        JobError: a variable is not set, or the folder could not be prepared.
    """
    prepared, problem = os.environ.get(sealed.SCRATCH), os.environ.get(sealed.SCRATCH_PROBLEM)
    if scratch is not None and prepared is None and (unset := sealed.unset_variables(scratch)):
        problem = f"{unset[0]} is not set on the node"
    if problem:
        raise JobError(f"scratch is {scratch}: {problem}; correct `scratch` in the cluster profile")
    if prepared is not None:
        return Path(prepared)
    return Path(os.path.expandvars(scratch)) if scratch is not None else None


@contextmanager
def _scratch_folder(place: Path | None) -> Iterator[Path | None]:
    """Yield a new folder for the caches of one attempt, or None; it is removed afterwards.

    Caches hold compiled code that training executes. So nobody else may know the folder's name before it exists, or write to it.
    """
    if place is None:
        yield None
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="spac-repro-", dir=place))  # mode 0700, a random name, never an existing folder
    except OSError as error:
        raise JobError(f"cannot create a folder in {place}: {error.strerror}; correct `scratch` in the cluster profile") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify_cache(cache: Path) -> None:
    """Check the files of a cache that `prefetch` filled.

    Raises:
        JobError: one was changed or is missing.
    """
    from spac_repro import prefetch
    from spac_repro.errors import UserError

    try:
        prefetch.verify(cache)
    except UserError as error:
        raise JobError(str(error)) from None


def progress_sha256(run_folder: Path) -> str:
    """A hash of the names of what a run has produced: iterates, scores, checkpoints and self-play batches."""
    return sha256("\n".join(RunFolder(run_folder).artifacts()).encode()).hexdigest()[:16]


def requeue_file(job_folder: Path, slurm_job: str) -> Path:
    """The file that tells the batch script to requeue its job."""
    return job_folder / f"requeue-{slurm_job}"


class OutputForwarder:
    """Prints the lines of a stream to stderr, in a thread, and remembers the last one."""

    def __init__(self, stream: Any) -> None:
        self._last = ""
        self._thread = Thread(target=self._forward, args=(stream,), daemon=True)
        self._thread.start()

    def _forward(self, stream: TextIO) -> None:
        with stream:
            for line in stream:
                print(line, end="", file=sys.stderr, flush=True)
                self._last = line.strip() or self._last

    def last_line(self) -> str:
        """The last line that is not empty, after the stream has ended."""
        self._thread.join(timeout=5)
        return self._last


def prepare_child() -> None:
    """Runs in the child before Python starts: SIGUSR2, not yet handled, must not kill it; the death of this process must."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def rank() -> int:
    """The number of this task of the job: one a node."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _job_id() -> str:
    """The job's ID as sweep.json has it; in an array: ARRAY_INDEX."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    single = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID", "")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else single


def _port() -> int:
    """A port that all nodes of a job compute, and that other jobs on these nodes are unlikely to use."""
    return 20000 + int(os.environ.get("SLURM_JOB_ID", os.getpid())) % 20000
