"""Executes jobs on Slurm: submitit submits them; squeue and sacct report their state."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.launchers import sealed
from spac_repro.launchers.job import Job, requeue_file
from spac_repro.launchers.profile import Cluster

# docs/decisions/07-sweeps.md: signals, requeueing, dependencies, and why squeue is asked before sacct.
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sacct")
JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")  # scancel would read anything else as an option, or as another kind of name
PENDING_STATES = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ACTIVE_STATES = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


@dataclass(frozen=True)
class JobState:
    """The state of a job in Slurm's words.

    Attributes:
        name: PENDING, RUNNING, COMPLETED, …
        reason: why the job is pending.
    """

    name: str
    reason: str = ""

    @property
    def pending(self) -> bool:
        """Whether the job waits to be started."""
        return self.name in PENDING_STATES

    @property
    def unfinished(self) -> bool:
        """Whether the job is pending or active."""
        return self.pending or self.name in ACTIVE_STATES


def check_available() -> None:
    """Check that Slurm's commands are installed and its controller answers.

    Raises:
        UnfitEnvironmentError: a command is missing, or the controller does not answer.
    """
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise UnfitEnvironmentError(
            f"Slurm is not installed here ({missing[0]} is missing); run this on a login node, or use --cluster local"
        )
    done = run_command("scontrol", "ping")
    if done.returncode or "UP" not in done.stdout:
        raise UnfitEnvironmentError(f"Slurm's controller does not answer: {_last_line(done)}")


def has_accounting() -> bool:
    """Whether accounting is on. Without it, the state of a job is unknown once it has left the queue."""
    done = run_command("sacct", "-X", "-n", "-P", "-o", "JobID", "-S", "now")
    return done.returncode == 0 and "disabled" not in done.stderr


def max_array_size() -> int:
    """The number of jobs that one array may have."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", run_command("scontrol", "show", "config").stdout)
    return max(1, int(match.group(1)) - 1) if match else 1000  # MaxArraySize is one more than the largest index


def check_shared_folder(cluster: Cluster, folder: Path) -> str | None:
    """Check on a node that it can write to the jobs' folder. If it cannot, Slurm's jobs fail without a message.

    Returns:
        Why this could not be tested, e.g. because all nodes are busy; None if the test succeeded.

    Raises:
        UserError: the node cannot write to the folder, or its file does not appear on this machine.
    """
    token = folder / f".probe-{os.getpid()}"
    options = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "constraint": cluster.constraint}
    options |= {"exclude": cluster.exclude}
    request = [f"--{name}={value}" for name, value in options.items() if value]
    script = 'echo "probe on ${SLURMD_NODENAME:-a node}"; : > "$0" && echo written'
    command = ("srun", "--immediate=5", "--time=1", "--ntasks=1", "--chdir=/", "--job-name=spac-repro-probe", *request)
    done = run_command(*command, "sh", "-c", script, str(token))
    try:
        if "probe on" not in done.stdout:
            return _last_line(done)
        node = done.stdout.splitlines()[0].removeprefix("probe on ")
        if "written" not in done.stdout:
            raise UserError(f"{node} cannot write to {folder}; choose a folder on a shared disk with --out")
        if not token.exists():
            raise UserError(f"files that {node} writes to {folder} do not appear here; choose a folder on a shared disk with --out")
    finally:
        token.unlink(missing_ok=True)
    return None


def rejection(cluster: Cluster) -> str | None:
    """Slurm's reason for rejecting a job with this profile; None if it would accept it. Nothing is submitted."""
    with tempfile.TemporaryDirectory() as folder:
        executor = _executor(cluster, Path(folder), "spac-repro-doctor", ())
        file = Path(folder) / "job.sh"
        file.write_text(executor.sbatch_file("true", "doctor"))
        done = run_command("sbatch", "--test-only", str(file))
    return _sbatch_errors(done.stderr) if done.returncode else None


def submit(jobs: Sequence[Job], cluster: Cluster, folder: Path, *, name: str, after: Sequence[str] = ()) -> list[str]:
    """Submit jobs, in arrays as large as the cluster allows.

    Args:
        jobs: the jobs.
        cluster: their resources.
        folder: where submitit writes pickles and logs; on a shared disk.
        name: the jobs' name in the queue.
        after: IDs of jobs that must have ended before these begin.

    Returns:
        The IDs of the jobs.

    Raises:
        UserError: Slurm rejected the jobs, with its reason; none of them stays in the queue.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    ids: list[str] = []
    size = max_array_size()
    try:
        for begin in range(0, len(jobs), size):
            executor = _executor(cluster, folder, name, after, _mounts(jobs, cluster, folder))
            with redirect_stderr(io.StringIO()):  # submitit prints the error that it raises
                ids += [job.job_id for job in executor.map_array(_call, jobs[begin : begin + size])]
            # Slurm limits the number of simultaneous jobs for each array alone, so several arrays run one after the other.
            if cluster.max_parallel_runs:
                after = [ids[-1].partition("_")[0]]
    except (FailedJobError, FailedSubmissionError) as error:
        cancel(ids)
        raise UserError(
            f"Slurm rejected the jobs: {_sbatch_errors(str(error))}; nothing was submitted; correct the cluster profile and repeat"
        ) from None
    except BaseException:
        cancel(ids)
        raise
    return ids


def sbatch_script(jobs: Sequence[Job], cluster: Cluster, folder: Path, *, name: str, after: Sequence[str] = ()) -> str:
    """The sbatch file of the first array that `submit` would submit. The arguments are those of `submit`."""
    executor = _executor(cluster, folder, name, after, _mounts(jobs, cluster, folder))
    count = min(len(jobs), max_array_size() if shutil.which("scontrol") else len(jobs))
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor.sbatch_file(None, "dry-run"))


def _mounts(jobs: Sequence[Job], cluster: Cluster, folder: Path) -> sealed.Mounts:
    """What the jobs of a sweep see of the node in an image: the sweep, the cache, and the files that `train` reads.

    The cache is writable, because the library of data sets locks it even to read it.
    """
    inputs = {Path(word) for job in jobs for word in job.arguments if word.startswith("/") and Path(word).exists()}
    writable = [folder.parent, *([Path(cluster.cache)] if cluster.cache else [])]
    read = [path for path in sorted(inputs) if not any(path.is_relative_to(parent) for parent in writable)]
    return [*((path, True) for path in writable), *((path, False) for path in read)]


def _call(job: Job) -> None:
    job()


def _executor(cluster: Cluster, folder: Path, name: str, after: Sequence[str], mounts: sealed.Mounts = ()) -> Any:
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        """submitit's executor. It also works where there is no Slurm, and returns the sbatch file: for --dry-run."""

        @classmethod
        def affinity(cls) -> int:
            return 1

        def sbatch_file(self, command: str | None, uid: str) -> str:
            """The text of the sbatch file; `command` is submitit's own unless given."""
            return str(self._make_submission_file_text(command or self._submitit_command_str, uid))

    if not str(folder).isprintable():
        raise UserError(
            f"{str(folder)!r} contains a control character, which the batch script cannot hold; choose another with --out"
        )
    executor = Executor(folder, python=sealed.python_command(cluster, sys.executable, mounts))
    executor.update_parameters(**_parameters(cluster, folder, name, after, mounts))
    return executor


def _parameters(cluster: Cluster, folder: Path, name: str, after: Sequence[str], mounts: sealed.Mounts) -> dict[str, Any]:
    more: dict[str, Any] = {"requeue": True, **cluster.sbatch}
    if after:
        # Not "afterok": one failed start policy would block all other runs forever. A run checks for its own start policy.
        more["dependency"] = "afterany:" + ":".join(after)
    flag = shlex.quote(str(requeue_file(folder, "")))
    parameters = {
        "job_name": name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "nodes": cluster.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": cluster.cpus_per_node,
        "gpus_per_node": cluster.gpus_per_node or None,
        "mem": f"{cluster.memory_gb}GB" if cluster.memory_gb else None,
        "time": cluster.minutes,
        "signal_delay_s": cluster.requeue.signal_seconds,
        "array_parallelism": cluster.max_parallel_runs or 1_000_000,
        "setup": [*cluster.setup, *(f"export {key}={shlex.quote(value)}" for key, value in cluster.environment.items())] or None,
        "srun_args": sealed.srun_options(cluster, mounts),
        # The batch script runs outside any container, so it has Slurm's commands.
        "teardown": [
            "code=$?",
            f'if rm {flag}"$SLURM_JOB_ID" 2>/dev/null; then scontrol requeue "$SLURM_JOB_ID"; fi',
            "exit $code",
        ],
        "additional_parameters": more,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs, pending or running.

    Raises:
        UserError: Slurm did not cancel them.
    """
    chosen = sorted(set(ids))
    if bad := [job for job in chosen if not JOB_ID.fullmatch(job)]:
        raise UserError(f"{one_line(bad[0], 40)!r} is not a job of Slurm, so nothing was cancelled; sweep.json was changed by hand")
    for begin in range(0, len(chosen), 200):
        done = run_command("scancel", *chosen[begin : begin + 200])
        if done.returncode and "already" not in done.stderr and "Invalid job id" not in done.stderr:
            raise UserError(f"Slurm did not cancel the jobs: {_last_line(done)}")


def job_states(ids: Iterable[str]) -> dict[str, JobState]:
    """The states of jobs, by ID: from the queue, or else from the accounting. A job that neither knows is left out.

    Raises:
        UnfitEnvironmentError: squeue does not answer.
    """
    requested = set(ids)
    known: dict[str, JobState] = {}
    queue = run_command("squeue", "-h", "-r", "-u", str(os.geteuid()), "-t", "all", "-o", "%i|%T|%r")
    if queue.returncode:
        raise UnfitEnvironmentError(f"squeue does not answer: {_last_line(queue)}")
    for line in queue.stdout.splitlines():
        job, name, reason = line.split("|", 2)
        known[job] = JobState(name, "" if reason == "None" else reason)
    if left := {job for job in requested if _lookup(job, known) is None}:
        known = {**_sacct_states(left), **known}
    return {job: state for job in requested if (state := _lookup(job, known)) is not None}


def _lookup(job: str, states: Mapping[str, JobState]) -> JobState | None:
    """A job's state. An array that was cancelled before it began is listed as one entry without an index."""
    return states.get(job) or states.get(job.partition("_")[0])


def _sacct_states(ids: Iterable[str]) -> dict[str, JobState]:
    from submitit.slurm.slurm import SlurmInfoWatcher

    bases = ",".join(sorted({job.partition("_")[0] for job in ids}))
    done = run_command("sacct", "-X", "--parsable2", "-o", "JobID,State,NodeList", "-j", bases)
    if done.returncode:
        return {}
    return {job: JobState(row["State"].split(" ")[0].rstrip("+")) for job, row in SlurmInfoWatcher().read_info(done.stdout).items()}


def run_command(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command. Its exit status is 127 if it is not installed, and 124 if it takes longer than a minute."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, "SLURM_TIME_FORMAT": "standard"}
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]}: no answer in a minute")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a command's output."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else f"{done.args[0]} exited with {done.returncode}"


def _sbatch_errors(text: str) -> str:
    """The errors in the output of sbatch."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in text.splitlines()]
    errors = [line for line in lines if line and not line.startswith("Try ")]
    return "; ".join(dict.fromkeys(errors)) or "no reason given"
