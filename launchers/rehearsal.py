"""A rehearsal on Slurm: one short job of the profile's shape, which is also sent a signal by Slurm in its training."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.launchers import job as jobs
from spac_repro.launchers import slurm, sweep, sweep_folder
from spac_repro.launchers.job import Job, JobError
from spac_repro.launchers.profile import Cluster, Requeue

SIGNAL_REQUEST = "SPAC_REPRO_SIGNAL_REQUEST"  # environment variable: the file by which a rehearsal asks for a signal of Slurm
SPARE_MINUTES = 15  # beyond those of the rounds: for the first round, which is always finished
FITS, DOES_NOT_FIT = 0, 3  # exit codes that leave a document


@dataclass
class RehearsalJob(Job):
    """The job of a rehearsal. Signals are passed on once: the rehearsal stops at the first one and goes on by itself."""

    def __call__(self) -> None:
        """Rehearse.

        Raises:
            JobError: the rehearsal failed, or scratch or cache cannot be used.
        """
        for number in jobs.SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            self._log_attempt(position="")
            if self.cache is not None:
                jobs.verify_cache(Path(self.cache))
            code, last_line = self._train()
            if code not in (FITS, DOES_NOT_FIT) or not (self.run_folder.exists() or jobs.rank()):
                raise JobError(one_line(last_line.removeprefix("spac-repro: ")) or f"it ended with exit code {code} and no output")
        except JobError as error:
            self._log_attempt(end="failed", error=str(error))
            raise
        self._log_attempt(end="done")

    def _run_training(self, environment: dict[str, str]) -> tuple[int, str]:
        child = subprocess.Popen(
            self._command(),
            env={**environment, SIGNAL_REQUEST: str(signal_request(self.job_folder))},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=jobs.prepare_child,
        )
        output = jobs.OutputForwarder(child.stderr)
        while (code := child.poll()) is None:
            while self._signals:
                child.send_signal(self._signals.pop())
            time.sleep(0.1)
        return code, output.last_line()

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "spac_repro", "rehearse", *self.arguments]


def signal_request(job_folder: Path) -> Path:
    """The file by which the rehearsal asks for a signal of Slurm."""
    return job_folder / "signal-requested"


def submit_and_wait(
    cluster: Cluster, arguments: Sequence[str], document: Path, *, minutes: float, say: Callable[[str], None]
) -> list[str]:
    """Rehearse in a job of the profile's shape, and wait for it.

    Args:
        cluster: the profile.
        arguments: of `rehearse`; its `--out` is the document.
        document: the document that the job writes, on a disk that the nodes share.
        minutes: of the rehearsal's rounds.
        say: gets a line for what happens.

    Returns:
        What the job has proved.

    Raises:
        UserError: Slurm rejected the job, or it failed; with the reason.
        UnfitEnvironmentError: there is no Slurm here, or the job needs what its node does not have.
    """
    slurm.check_available()
    folder = document.parent.resolve() / f"{document.stem}-job"
    sweep_folder.make_private(folder)
    slurm.check_shared_folder(cluster, folder)
    short = cluster.model_copy(
        update={"minutes": min(cluster.minutes, int(minutes) + 1 + SPARE_MINUTES), "requeue": Requeue(signal_seconds=30)}
    )
    for old in (document, signal_request(folder), folder / "attempts.jsonl"):
        old.unlink(missing_ok=True)
    job = RehearsalJob(
        run="rehearsal",
        arguments=list(arguments),
        run_folder=document,
        attempts_file=folder / "attempts.jsonl",
        job_folder=folder,
        nodes=cluster.nodes,
        environment=sweep.environment(cluster),
        attempts_without_progress=1,
        scratch=cluster.scratch,
        cache=cluster.cache,
    )
    (identifier,) = slurm.submit([job], short, folder, name="spac-repro-rehearsal")
    say(f"job {identifier} of {cluster.nodes} nodes is submitted; its log is in {folder}")
    try:
        signalled = _wait(identifier, folder)
    except BaseException:
        slurm.cancel([identifier])
        raise
    if not document.exists():
        last = ([*sweep_folder.attempts(folder / "attempts.jsonl")] or [{}])[-1]
        reason = last.get("error") or f"it left no message; its log is in {folder}"
        kind = UnfitEnvironmentError if "does not fit" in reason else UserError
        raise kind(one_line(f"the rehearsal's job {identifier} failed: {reason}"))
    return [*(["a signal of Slurm reached the training"] if signalled else []), *_proved(cluster)]


def _wait(identifier: str, folder: Path) -> bool:
    """Wait for the end of the job, and send it a signal when it asks; whether it was sent one."""
    signalled = False
    while (state := slurm.job_states([identifier]).get(identifier)) is not None and state.unfinished:
        if not signalled and signal_request(folder).exists():
            slurm.run_command("scancel", "--signal=USR2", identifier)
            signalled = True
        time.sleep(1)
    return signalled


def _proved(cluster: Cluster) -> list[str]:
    """What the job could not have ended without."""
    found = [f"{cluster.nodes} nodes met"] if cluster.nodes > 1 else []
    found += [f"the image {cluster.image.path} ran it"] if cluster.image else []
    found += [f"scratch {cluster.scratch} takes caches"] if cluster.scratch else []
    return [*found, *([f"the files of the cache {cluster.cache} have their hashes"] if cluster.cache else [])]


def absolute(path: str | os.PathLike[str]) -> str:
    """A path as the job finds it; anything else as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)
