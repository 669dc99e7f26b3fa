"""How jobs come to run on Slurm: submitit writes and submits them; squeue and sacct say what became of them."""

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

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.launchers.job import Job, again_file
from spac_repro.launchers.profile import Cluster

# docs/decisions/07-sweeps.md: signals, requeueing, dependencies, and why squeue is asked before sacct.
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sacct")
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


@dataclass(frozen=True)
class State:
    """What Slurm says of a job."""

    name: str  # PENDING, RUNNING, COMPLETED, …
    reason: str = ""  # why it waits

    @property
    def waiting(self) -> bool:
        return self.name in WAITING

    @property
    def live(self) -> bool:
        return self.waiting or self.name in AT_WORK


def require() -> None:
    """Raise UnfitEnvironmentError unless Slurm's commands are here and its controller answers."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise UnfitEnvironmentError(
            f"Slurm is not installed here ({missing[0]} is missing); work on a login node, or use --cluster local"
        )
    done = ask("scontrol", "ping")
    if done.returncode or "UP" not in done.stdout:
        raise UnfitEnvironmentError(f"Slurm's controller does not answer: {_words(done)}")


def accounting() -> bool:
    """Whether the cluster keeps accounts, so that the end of a job can be asked for after it left the queue."""
    done = ask("sacct", "-X", "-n", "-P", "-o", "JobID", "-S", "now")
    return done.returncode == 0 and "disabled" not in done.stderr


def largest_array() -> int:
    """How many jobs one array may hold."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config").stdout)
    return max(1, int(found.group(1)) - 1) if found else 1000  # the largest index is one less; we leave another one free


def check_shared(cluster: Cluster, folder: Path) -> str | None:
    """See on a node that the jobs' folder can be written there; Slurm itself fails without a word where it cannot.

    Returns why that could not be tried (all nodes busy, say), None where it was seen to be well.

    Raises:
        UserError: the node cannot write it, or what it writes is not to be seen here.
    """
    token = folder / f".probe-{os.getpid()}"
    options = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "constraint": cluster.constraint}
    options |= {"exclude": cluster.exclude}
    asked = [f"--{name}={value}" for name, value in options.items() if value]
    script = 'echo "probe on ${SLURMD_NODENAME:-a node}"; : > "$0" && echo written'
    command = ("srun", "--immediate=5", "--time=1", "--ntasks=1", "--chdir=/", "--job-name=spac-repro-probe", *asked)
    done = ask(*command, "sh", "-c", script, str(token))
    try:
        if "probe on" not in done.stdout:
            return _words(done)
        node = done.stdout.splitlines()[0].removeprefix("probe on ")
        if "written" not in done.stdout:
            raise UserError(f"{node} cannot write to {folder}; choose a folder on a shared disk with --out")
        if not token.exists():
            raise UserError(f"what {node} writes to {folder} is not to be seen here; choose a folder on a shared disk with --out")
    finally:
        token.unlink(missing_ok=True)
    return None


def refusal(cluster: Cluster) -> str | None:
    """Why Slurm would not take a job with this profile, in its own words; it is asked, and nothing is submitted."""
    with tempfile.TemporaryDirectory() as folder:
        executor = _executor(cluster, Path(folder), "spac-repro-doctor", ())
        file = Path(folder) / "job.sh"
        file.write_text(executor._make_submission_file_text("true", "doctor"))
        done = ask("sbatch", "--test-only", str(file))
    return _refusal(done.stderr) if done.returncode else None


def submit(jobs: Sequence[Job], cluster: Cluster, folder: Path, *, name: str, after: Sequence[str] = ()) -> list[str]:
    """Submit jobs as arrays that are as large as the cluster allows, to begin when the jobs `after` have ended; their ids.

    Raises:
        UserError: Slurm refused, in its own words; then nothing of it stays submitted.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    ids: list[str] = []
    size = largest_array()
    try:
        for begin in range(0, len(jobs), size):
            executor = _executor(cluster, folder, name, after)
            with redirect_stderr(io.StringIO()):  # where submitit repeats what it raises
                ids += [job.job_id for job in executor.map_array(_run, jobs[begin : begin + size])]
            # A limit on the cells at a time is an array's own: several arrays keep it by taking turns.
            if cluster.parallelism:
                after = [ids[-1].partition("_")[0]]
    except (FailedJobError, FailedSubmissionError) as error:
        cancel(ids)
        raise UserError(
            f"Slurm refused: {_refusal(str(error))}; nothing was submitted, so correct the cluster profile and repeat"
        ) from None
    except BaseException:
        cancel(ids)
        raise
    return ids


def script(jobs: Sequence[Job], cluster: Cluster, folder: Path, *, name: str, after: Sequence[str] = ()) -> str:
    """The sbatch file that `submit` would submit, for its first array."""
    executor = _executor(cluster, folder, name, after)
    count = min(len(jobs), largest_array() if shutil.which("scontrol") else len(jobs))
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def _run(job: Job) -> None:
    job()


def _executor(cluster: Cluster, folder: Path, name: str, after: Sequence[str]) -> Any:
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        """submitit's, which also writes the file where there is no Slurm: for --dry-run."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Executor(folder, python=cluster.interpreter(sys.executable))
    executor.update_parameters(**_parameters(cluster, folder, name, after))
    return executor


def _parameters(cluster: Cluster, folder: Path, name: str, after: Sequence[str]) -> dict[str, Any]:
    more: dict[str, Any] = {"requeue": True, **cluster.sbatch}
    if after:
        # Not "afterok": one failed start would hold up the cells of all the others for ever. A cell looks for its own start.
        more["dependency"] = "afterany:" + ":".join(after)
    again = shlex.quote(str(again_file(folder, "")))
    wanted = {
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
        "array_parallelism": cluster.parallelism or 1_000_000,
        "setup": [*cluster.setup, *(f"export {key}={shlex.quote(value)}" for key, value in cluster.environment.items())] or None,
        "srun_args": cluster.srun() or None,
        # The batch script stands outside any container, so Slurm's commands are there for it.
        "teardown": [
            "code=$?",
            f'if rm {again}"$SLURM_JOB_ID" 2>/dev/null; then scontrol requeue "$SLURM_JOB_ID"; fi',
            "exit $code",
        ],
        "additional_parameters": more,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def cancel(ids: Iterable[str]) -> None:
    """End jobs, waiting or running."""
    chosen = sorted(set(ids))
    for begin in range(0, len(chosen), 200):
        done = ask("scancel", *chosen[begin : begin + 200])
        if done.returncode and "already" not in done.stderr and "Invalid job id" not in done.stderr:
            raise UserError(f"Slurm did not cancel: {_words(done)}")


def states(ids: Iterable[str]) -> dict[str, State]:
    """What became of jobs: the queue knows best; of what has left it, only the accounts know, where there are any."""
    wanted = set(ids)
    found: dict[str, State] = {}
    queue = ask("squeue", "-h", "-r", "-u", str(os.geteuid()), "-t", "all", "-o", "%i|%T|%r")
    if queue.returncode:
        raise UnfitEnvironmentError(f"Slurm does not say what is in its queue: {_words(queue)}")
    for line in queue.stdout.splitlines():
        job, name, reason = line.split("|", 2)
        found[job] = State(name, "" if reason == "None" else reason)
    if left := {job for job in wanted if _of(job, found) is None}:
        found = {**_accounts(left), **found}
    return {job: state for job in wanted if (state := _of(job, found)) is not None}


def _of(job: str, states: Mapping[str, State]) -> State | None:
    """A job's state; an array that was cancelled before any of it began is left as one entry without places."""
    return states.get(job) or states.get(job.partition("_")[0])


def _accounts(ids: Iterable[str]) -> dict[str, State]:
    from submitit.slurm.slurm import SlurmInfoWatcher

    bases = ",".join(sorted({job.partition("_")[0] for job in ids}))
    done = ask("sacct", "-X", "--parsable2", "-o", "JobID,State,NodeList", "-j", bases)
    if done.returncode:
        return {}
    return {job: State(row["State"].split(" ")[0].rstrip("+")) for job, row in SlurmInfoWatcher().read_info(done.stdout).items()}


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; one that is not installed ends with 127, one that does not answer with 124."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, "SLURM_TIME_FORMAT": "standard"}
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not installed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]}: no answer in a minute")


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else f"{done.args[0]} ended with {done.returncode}"


def _refusal(text: str) -> str:
    """Slurm's own words in what sbatch says, the particular before the general."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith("Try ")]
    return "; ".join(dict.fromkeys(words)) or "without a word"
