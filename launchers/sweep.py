"""Submit a sweep, report its state, cancel it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.launchers import local, slurm, sweep_folder
from spac_repro.launchers.job import Job
from spac_repro.launchers.matrix import SweepRun
from spac_repro.launchers.profile import Cluster
from spac_repro.launchers.sweep_folder import SweepFolder
from spac_repro.optim import distributed
from spac_repro.runs.folder import RunFolder

State = Literal["missing", "pending", "running", "requeued", "failed", "cancelled", "done"]
ENDED: tuple[State, ...] = ("failed", "cancelled")
UNFINISHED: tuple[State, ...] = ("pending", "running", "requeued")


@dataclass(frozen=True)
class JobSpec:
    """The work of one job: "start", the start policy of a run, or "run", the rest of it."""

    kind: Literal["start", "run"]
    run: SweepRun

    def __str__(self) -> str:
        return f"start of {self.run.name}" if self.kind == "start" else self.run.name


@dataclass(frozen=True)
class RunStatus:
    """The state of a run.

    Attributes:
        run: its name.
        state: "missing" means that it was not submitted.
        detail: iteration and step, the reason for waiting, the last error, or scores.
        job: the ID of its job.
        attempts: how often the job has begun.
        scores: the scores of the last iterate.
    """

    run: str
    state: State
    detail: str = ""
    job: str | None = None
    attempts: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the status for `--json`."""
        return {**self.__dict__}


@dataclass(frozen=True)
class Submission:
    """What is submitted.

    Attributes:
        tasks: one a job.
        script: the sbatch file of the runs' jobs.
        start_script: the sbatch file of the jobs that make start policies.
    """

    tasks: list[JobSpec]
    script: str = ""
    start_script: str = ""


def plan(folder: SweepFolder) -> Submission:
    """Return what `submit` would submit."""
    return _plan(folder, statuses(folder), ("missing",))


def submit(folder: SweepFolder, *, resubmit: Sequence[State] = (), on_end: Callable[[str], None] = print) -> Submission:
    """Submit the runs that were never submitted, and those in one of the states `resubmit`.

    On Slurm this returns when the jobs are in the queue. On this machine it returns when they have ended.

    Args:
        folder: the sweep's folder.
        resubmit: states of runs that are submitted again.
        on_end: on this machine, called with a line when a task has ended.

    Raises:
        UserError: Slurm rejected the jobs, with its reason; nothing of this submission stays in the queue. Or the folder cannot be
            used.
        UnfitEnvironmentError: there is no Slurm here.
    """
    _check_processes(folder)
    sweep_folder.make_private(folder.job_folder)
    with sweep_folder.locked(folder.path):
        folder.refresh()
        submission = _plan(folder, statuses(folder), ("missing", *resubmit))
        if not submission.tasks:
            return submission
        if folder.cluster.scheduler == "local":
            _run_locally(folder, submission.tasks, on_end)
        else:
            slurm.check_available()
            slurm.check_shared_folder(folder.cluster, folder.job_folder)
            _submit_to_slurm(folder, submission.tasks)
    return submission


def cancel(folder: SweepFolder) -> list[str]:
    """Cancel the runs that are pending or running, and return their names.

    Raises:
        UserError: Slurm did not cancel them.
    """
    with sweep_folder.locked(folder.path):
        names = {status.run for status in statuses(folder) if status.state in UNFINISHED}
        slurm.cancel(job for jobs in folder.jobs.values() for run, job in jobs.items() if run in names and job != "local")
    return sorted(names)


# Submitting


def _plan(folder: SweepFolder, current: Sequence[RunStatus], states: Sequence[State]) -> Submission:
    """The tasks of the runs in these states, and of the start policies that they still need."""
    runs = [folder.runs[status.run] for status in current if status.state in states]
    owners = {owner.name: owner for owner in map(folder.start_owner, runs) if folder.shares_start(owner)}
    starts = [
        JobSpec("start", owner)
        for owner in owners.values()
        if not _start_is_finished(folder, owner) and not _start_is_submitted(folder, owner)
    ]
    tasks = [*starts, *(JobSpec("run", run) for run in runs)]
    run_jobs = [_job(folder, task) for task in tasks if task.kind == "run"]
    start_jobs = [_job(folder, task) for task in starts]
    script = start_script = ""
    if folder.cluster.scheduler == "slurm":
        after = ["JOB_OF_THE_STARTS"] if starts else []
        cluster, job_folder = folder.cluster, folder.job_folder
        script = slurm.sbatch_script(run_jobs, cluster, job_folder, name=folder.name, after=after) if run_jobs else ""
        start_script = slurm.sbatch_script(start_jobs, cluster, job_folder, name=f"{folder.name}-start") if start_jobs else ""
    return Submission(tasks, script, start_script)


def _submit_to_slurm(folder: SweepFolder, tasks: Sequence[JobSpec]) -> None:
    """Submit the start policies and then the runs, which wait for them; cancel everything if a part fails."""
    starts = [task for task in tasks if task.kind == "start"]
    rest = [task for task in tasks if task.kind == "run"]
    cluster, job_folder = folder.cluster, folder.job_folder
    submitted: list[str] = []
    try:
        submitted += slurm.submit([_job(folder, task) for task in starts], cluster, job_folder, name=f"{folder.name}-start")
        after = sorted({job.partition("_")[0] for job in [*submitted, *_unfinished_starts(folder, rest)]})
        submitted += slurm.submit([_job(folder, task) for task in rest], cluster, job_folder, name=folder.name, after=after)
        for task, job in zip([*starts, *rest], submitted, strict=True):
            folder.jobs.setdefault(task.kind, {})[task.run.name] = job
        folder.save()
    except BaseException:
        slurm.cancel(submitted)
        raise


def _run_locally(folder: SweepFolder, tasks: Sequence[JobSpec], on_end: Callable[[str], None]) -> None:
    start_tasks = {task.run.start_sha256: i for i, task in enumerate(tasks) if task.kind == "start"}
    after = {
        i: start_tasks[task.run.start_sha256]
        for i, task in enumerate(tasks)
        if task.kind == "run" and task.run.start_sha256 in start_tasks
    }
    for task in tasks:
        folder.jobs.setdefault(task.kind, {})[task.run.name] = "local"
    folder.save()
    jobs = [_job(folder, task) for task in tasks]
    task_of = {id(job): task for job, task in zip(jobs, tasks, strict=True)}

    def report(job: Job) -> None:
        last = ([*sweep_folder.attempts(job.attempts_file)] or [{}])[-1]
        outcome = last.get("end", f"ended without a message; see {folder.job_folder}")
        error = f": {one_line(last['error'])}" if last.get("error") else ""
        on_end(f"{task_of[id(job)]}: {outcome}{error}")

    local.run_jobs(jobs, folder.cluster, folder.job_folder, after=after, on_end=report)


def _job(folder: SweepFolder, task: JobSpec) -> Job:
    run, cluster = task.run, folder.cluster
    owner = folder.start_owner(run)
    return Job(
        run=run.name,
        arguments=run.arguments() + (["--until", "0"] if task.kind == "start" else []),
        run_folder=folder.run_folder(run).path,
        attempts_file=folder.attempts_file(task.kind, run),
        job_folder=folder.job_folder,
        nodes=cluster.nodes,
        environment=environment(cluster),
        attempts_without_progress=cluster.requeue.attempts_without_progress,
        start_from=folder.run_folder(owner).path if owner.name != run.name else None,
        scratch=cluster.scratch,
        cache=cluster.cache,
    )


def environment(cluster: Cluster) -> dict[str, str]:
    """The environment variables of a job's Python."""
    image = {"SPAC_REPRO_IMAGE": cluster.image.identity()} if cluster.image else {}  # unknown inside the container
    return {**_timeouts(cluster), **cluster.environment, **image, **(_OFFLINE if cluster.offline else {})}


def _timeouts(cluster: Cluster) -> dict[str, str]:
    minutes = cluster.timeouts.model_dump()
    return {variable: str(minutes[backend]) for backend, variable in distributed.TIMEOUT_VARIABLES.items()}


_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _check_processes(folder: SweepFolder) -> None:
    """Raise UserError if a run's recipe asks for another number of processes than the cluster profile starts."""
    for run in folder.runs.values():
        if run.processes != folder.cluster.processes:
            raise UserError(
                f"run {run.name} has training.processes={run.processes}, but the cluster profile starts "
                f"{folder.cluster.processes} ({folder.cluster.nodes} nodes); "
                f"--set training.processes={folder.cluster.processes}, or change the profile"
            )


def _start_is_finished(folder: SweepFolder, owner: SweepRun) -> bool:
    return folder.run_folder(owner).iteration(0).finished


def _unfinished_starts(folder: SweepFolder, tasks: Iterable[JobSpec]) -> list[str]:
    """The unfinished jobs of earlier submissions that make the start policies of these tasks."""
    if folder.cluster.scheduler == "local":
        return []
    owners = {folder.start_owner(task.run).name for task in tasks}
    jobs = {name: job for name, job in folder.jobs.get("start", {}).items() if name in owners and job != "local"}
    states = slurm.job_states(jobs.values()) if jobs else {}
    return [job for job in jobs.values() if job in states and states[job].unfinished]


def _start_is_submitted(folder: SweepFolder, owner: SweepRun) -> bool:
    return folder.job("start", owner) is not None and bool(_unfinished_starts(folder, [JobSpec("start", owner)]))


# State


def statuses(folder: SweepFolder) -> list[RunStatus]:
    """The state of every run, from the run folders, the logs of attempts, and Slurm.

    Raises:
        UserError: the results of a run cannot be read.
        UnfitEnvironmentError: squeue does not answer.
    """
    jobs = {job for by_run in folder.jobs.values() for job in by_run.values() if job != "local"}
    states = slurm.job_states(jobs) if jobs else {}
    return [_status(folder, run, states) for run in folder.runs.values()]


def _status(folder: SweepFolder, run: SweepRun, states: dict[str, slurm.JobState]) -> RunStatus:
    results, job = folder.run_folder(run), folder.job("run", run)
    log = sweep_folder.attempts(folder.attempts_file("run", run))
    attempts = sum("position" in line for line in log)
    if results.complete:
        scores = _last_scores(RunFolder.open(results.path))
        return RunStatus(run.name, "done", _summary(scores), job, attempts, scores)
    if job is None:
        return RunStatus(run.name, "missing", "not submitted")
    log = [line for line in log if line["job"] == job or job == "local"]
    job_state = states.get(job)
    if job == "local":
        state, detail = _local_state(results, log)
    elif job_state is not None and job_state.pending:
        state, detail = ("requeued", _progress(results)) if log else ("pending", _pending_reason(folder, run, job_state, states))
    elif job_state is not None and job_state.unfinished:
        state, detail = "running", _progress(results)
    else:
        state, detail = _unsuccessful_end(folder, job, log, job_state)
    return RunStatus(run.name, state, detail, job, attempts)


def _local_state(results: RunFolder, log: Sequence[dict[str, Any]]) -> tuple[State, str]:
    if results.owner_is_alive:
        return "running", _progress(results)
    if not log:
        return "cancelled", "never started"
    if log[-1].get("end") == "failed":
        return "failed", str(log[-1]["error"])
    return "cancelled", f"stopped at {_progress(results)}"


def _pending_reason(folder: SweepFolder, run: SweepRun, job_state: slurm.JobState, states: dict[str, slurm.JobState]) -> str:
    start = folder.job("start", folder.start_owner(run))
    if job_state.reason == "Dependency" and start is not None:
        state = states[start].name.lower() if start in states else "unknown"
        return f"waits for the shared start policies; the job of its own one is {state}"
    return job_state.reason


def _unsuccessful_end(
    folder: SweepFolder, job: str, log: Sequence[dict[str, Any]], job_state: slurm.JobState | None
) -> tuple[State, str]:
    """Why a job has ended without results: from its own log, or from Slurm."""
    name = job_state.name if job_state else ""
    if name == "CANCELLED":
        return "cancelled", "cancelled"
    if log and log[-1].get("end") == "failed":
        return "failed", str(log[-1]["error"])
    output = folder.job_folder / f"{job}_0_log.err"
    if not log and not output.exists():
        return "failed", f"{_explain(name)} before it could write its log: can the nodes write to {folder.path}?"
    return "failed", f"{_explain(name)}; its log is {output}"


def _explain(state_name: str) -> str:
    explanations = {
        "TIMEOUT": "its time limit was reached before a checkpoint was written (requeue.signal_seconds is too short)",
        "NODE_FAIL": "its node failed",
        "OUT_OF_MEMORY": "out of memory",
        "": "it left the queue for an unknown reason, because Slurm's accounting does not know it",
    }
    return explanations.get(state_name, f"Slurm reports {state_name}")


def _progress(results: RunFolder) -> str:
    """Iteration and step, from the last line of the metrics. Evaluation and self-play write no metrics."""
    last = results.last_step()
    if last is None:
        return "the beginning"
    iteration = f"iteration {last.iteration}" if last.iteration else "the start policy"
    trained = results.iteration(last.iteration).has_policy
    return f"{iteration}, {'evaluation or self-play after ' if trained else ''}step {last.step}"


def _last_scores(results: RunFolder) -> dict[str, float]:
    """The last iterate's scores, by task and metric."""
    return {f"{score.task} {score.metric}": score.value for score in results.results.iterations[-1].scores}


def _summary(scores: dict[str, float]) -> str:
    """The gold reward and the leaderboard average, where there are any, otherwise the first two scores."""
    chosen = [name for name in scores if name.startswith(("gold reward", "average "))] or list(scores)[:2]
    return ", ".join(f"{name} {scores[name]:.3f}" for name in chosen)
