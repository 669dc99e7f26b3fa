"""A sweep from submission to its end: submit, look, cancel, retry."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spac_repro.errors import UserError
from spac_repro.launchers import ledger, local, slurm
from spac_repro.launchers.job import Job
from spac_repro.launchers.ledger import Ledger
from spac_repro.launchers.matrix import Cell
from spac_repro.runs.folder import RunFolder

Stage = Literal["missing", "pending", "running", "requeued", "failed", "cancelled", "done"]
ENDED: tuple[Stage, ...] = ("failed", "cancelled")


@dataclass(frozen=True)
class Task:
    """A piece of work for one job: a cell's start, or the rest of it."""

    kind: Literal["start", "run"]
    cell: Cell

    def __str__(self) -> str:
        return f"start of {self.cell.name}" if self.kind == "start" else self.cell.name


@dataclass(frozen=True)
class Standing:
    """How far a cell is."""

    cell: str
    stage: Stage
    detail: str = ""  # iteration and step; why it waits; the last error line; scores
    job: str | None = None
    attempts: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__}


@dataclass(frozen=True)
class Submission:
    """What a submission comes to."""

    folder: Path
    tasks: list[Task]
    script: str = ""  # of the cells' jobs
    start_script: str = ""
    there: list[Standing] = field(default_factory=list)  # what was submitted before


def plan(book: Ledger) -> Submission:
    """What `submit` would do."""
    return _plan(book, standings(book), ("missing",))


def submit(book: Ledger, *, again: Sequence[Stage] = (), ended: Callable[[str], None] = print) -> Submission:
    """Submit the cells that were never submitted, and those that stand as `again` says.

    On Slurm this returns when the jobs are queued. On this machine it returns when they have ended, and tells `ended` of each.

    Raises:
        UserError: Slurm refuses, in its own words; nothing of this submission then stays in the queue.
    """
    _check_processes(book)
    ledger.make_private(book.job_folder)
    with ledger.locked(book.folder):
        book.refresh()
        todo = _plan(book, standings(book), ("missing", *again))
        if not todo.tasks:
            return todo
        if book.cluster.scheduler == "local":
            _run_here(book, todo.tasks, ended)
        else:
            slurm.require()
            slurm.check_shared(book.cluster, book.job_folder)
            _queue(book, todo.tasks)
    return todo


def cancel(book: Ledger) -> list[str]:
    """Cancel what waits or runs; the cells that were."""
    with ledger.locked(book.folder):
        live = [standing for standing in standings(book) if standing.stage in ("pending", "running", "requeued")]
        names = {standing.cell for standing in live}
        slurm.cancel(job for jobs in book.jobs.values() for cell, job in jobs.items() if cell in names and job != "local")
    return sorted(names)


# Submitting


def _plan(book: Ledger, there: Sequence[Standing], wanted: Sequence[Stage]) -> Submission:
    cells = [book.cells[standing.cell] for standing in there if standing.stage in wanted]
    leaders = {leader.name: leader for leader in map(book.leader, cells) if book.shares(leader)}
    starts = [
        Task("start", leader) for leader in leaders.values() if not _has_start(book, leader) and not _start_is_live(book, leader)
    ]
    tasks = [*starts, *(Task("run", cell) for cell in cells)]
    run_jobs = [_job(book, task) for task in tasks if task.kind == "run"]
    start_jobs = [_job(book, task) for task in starts]
    text = start_text = ""
    if book.cluster.scheduler == "slurm":
        after = ["JOB_OF_THE_STARTS"] if starts else []
        text = slurm.script(run_jobs, book.cluster, book.job_folder, name=book.name, after=after) if run_jobs else ""
        start_text = slurm.script(start_jobs, book.cluster, book.job_folder, name=f"{book.name}-start") if start_jobs else ""
    return Submission(book.folder, tasks, text, start_text, [standing for standing in there if standing.stage not in wanted])


def _queue(book: Ledger, tasks: Sequence[Task]) -> None:
    starts = [task for task in tasks if task.kind == "start"]
    rest = [task for task in tasks if task.kind == "run"]
    made: list[str] = []
    try:
        made += slurm.submit([_job(book, task) for task in starts], book.cluster, book.job_folder, name=f"{book.name}-start")
        after = sorted({job.partition("_")[0] for job in [*made, *_live_starts(book, rest)]})
        made += slurm.submit([_job(book, task) for task in rest], book.cluster, book.job_folder, name=book.name, after=after)
        for task, job in zip([*starts, *rest], made, strict=True):
            book.jobs.setdefault(task.kind, {})[task.cell.name] = job
        book.save()
    except BaseException:
        slurm.cancel(made)
        raise


def _run_here(book: Ledger, tasks: Sequence[Task], ended: Callable[[str], None]) -> None:
    place = {task.cell.start: i for i, task in enumerate(tasks) if task.kind == "start"}
    after = {i: place[task.cell.start] for i, task in enumerate(tasks) if task.kind == "run" and task.cell.start in place}
    for task in tasks:
        book.jobs.setdefault(task.kind, {})[task.cell.name] = "local"
    book.save()
    jobs = [_job(book, task) for task in tasks]
    names = {id(job): task for job, task in zip(jobs, tasks, strict=True)}

    def say(job: Job) -> None:
        task = names[id(job)]
        last = ([*ledger.attempts(job.attempts)] or [{}])[-1]
        ended(f"{task}: {last.get('end', 'ended without a word; see ' + str(book.job_folder))}" + _colon(last.get("error")))

    local.run(jobs, book.cluster, book.job_folder, after=after, ended=say)


def _job(book: Ledger, task: Task) -> Job:
    cell, cluster = task.cell, book.cluster
    leader = book.leader(cell)
    arguments = cell.arguments() + (["--until", "0"] if task.kind == "start" else [])
    image = {"SPAC_REPRO_IMAGE": cluster.image.identity()} if cluster.image else {}  # what is inside cannot know it
    return Job(
        cell=cell.name,
        arguments=arguments,
        folder=book.run_folder(cell),
        attempts=book.attempts_file(task.kind, cell),
        job_folder=book.job_folder,
        nodes=cluster.nodes,
        environment={**cluster.environment, **image, **(_OFFLINE if cluster.offline else {})},
        attempts_without_progress=cluster.requeue.attempts_without_progress,
        start=book.run_folder(leader) if leader.name != cell.name else None,
        scratch=cluster.scratch,
        cache=cluster.cache,
    )


_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def _check_processes(book: Ledger) -> None:
    for cell in book.cells.values():
        if cell.processes != book.cluster.processes:
            raise UserError(
                f"cell {cell.name} trains with {cell.processes} processes and the cluster profile starts {book.cluster.processes} "
                f"({book.cluster.nodes} nodes); --set training.processes={book.cluster.processes}, or change the profile"
            )


def _has_start(book: Ledger, leader: Cell) -> bool:
    return book.run(leader).iteration(0).finished


def _live_starts(book: Ledger, tasks: Iterable[Task]) -> list[str]:
    """Jobs of earlier submissions that make a start which these tasks need."""
    if book.cluster.scheduler == "local":
        return []
    leaders = {book.leader(task.cell).name for task in tasks}
    jobs = {name: job for name, job in book.jobs.get("start", {}).items() if name in leaders and job != "local"}
    states = slurm.states(jobs.values()) if jobs else {}
    return [job for job in jobs.values() if job in states and states[job].live]


def _start_is_live(book: Ledger, leader: Cell) -> bool:
    return book.job("start", leader) is not None and bool(_live_starts(book, [Task("start", leader)]))


def _colon(text: str | None) -> str:
    return f": {text}" if text else ""


# Looking


def standings(book: Ledger) -> list[Standing]:
    """How far every cell is, from the run folders, what the jobs said, and what Slurm says."""
    jobs = {job for by_cell in book.jobs.values() for job in by_cell.values() if job != "local"}
    states = slurm.states(jobs) if jobs else {}
    return [_standing(book, cell, states) for cell in book.cells.values()]


def _standing(book: Ledger, cell: Cell, states: dict[str, slurm.State]) -> Standing:
    run, job = book.run(cell), book.job("run", cell)
    said = ledger.attempts(book.attempts_file("run", cell))
    attempts = sum("position" in line for line in said)
    if run.complete:
        scores = _scores(RunFolder.open(run.path))
        return Standing(cell.name, "done", _in_words(scores), job, attempts, scores)
    if job is None:
        return Standing(cell.name, "missing", "not submitted")
    mine = [line for line in said if line["job"] == job or job == "local"]
    state = states.get(job)
    if job == "local":
        stage, detail = _local_stage(run, mine)
    elif state is not None and state.waiting:
        stage, detail = ("requeued", _position(run)) if mine else ("pending", _waits(book, cell, state, states))
    elif state is not None and state.live:
        stage, detail = "running", _position(run)
    else:
        stage, detail = _ended(book, job, mine, state)
    return Standing(cell.name, stage, detail, job, attempts)


def _local_stage(run: RunFolder, said: Sequence[dict[str, Any]]) -> tuple[Stage, str]:
    if run.owner_is_alive:
        return "running", _position(run)
    if not said:
        return "cancelled", "never begun"
    if said[-1].get("end") == "failed":
        return "failed", str(said[-1]["error"])
    return "cancelled", f"stopped at {_position(run)}"


def _waits(book: Ledger, cell: Cell, state: slurm.State, states: dict[str, slurm.State]) -> str:
    start = book.job("start", book.leader(cell))
    if state.reason == "Dependency" and start is not None:
        name = states[start].name.lower() if start in states else "unknown"
        return f"waits for the shared starts; its own is {name}"
    return state.reason


def _ended(book: Ledger, job: str, said: Sequence[dict[str, Any]], state: slurm.State | None) -> tuple[Stage, str]:
    """Why a job is no more, without a result: it said so itself, or Slurm knows."""
    name = state.name if state else ""
    if name == "CANCELLED":
        return "cancelled", "cancelled"
    if said and said[-1].get("end") == "failed":
        return "failed", str(said[-1]["error"])
    logs = book.job_folder / f"{job}_0_log.err"
    if not said and not logs.exists():
        return "failed", f"{_ending(name)} before it could write its log: can the nodes write to {book.folder}?"
    return "failed", f"{_ending(name)}; its log is {logs}"


def _ending(name: str) -> str:
    words = {
        "TIMEOUT": "its time was up before a checkpoint was written (requeue.signal_seconds is too short)",
        "NODE_FAIL": "its node failed",
        "OUT_OF_MEMORY": "out of memory",
        "": "it left the queue and there are no accounts that say why",
    }
    return words.get(name, f"Slurm says {name}")


def _position(run: RunFolder) -> str:
    """Iteration and step, from the last line of the metrics; the evaluations between them write none."""
    last = run.last_step()
    if last is None:
        return "the beginning"
    stage = f"iteration {last.iteration}" if last.iteration else "the start"
    finished = run.iteration(last.iteration).has_policy
    return f"{stage}, {'evaluation or self-play after ' if finished else ''}step {last.step}"


def _scores(run: RunFolder) -> dict[str, float]:
    """The last iterate's scores by task and metric."""
    return {f"{score.task} {score.metric}": score.value for score in run.results.iterations[-1].scores}


def _in_words(scores: dict[str, float]) -> str:
    """The gold reward where there is one, and the mean of a leaderboard where that is scored: not every number."""
    chosen = [name for name in scores if name.startswith(("gold reward", "average "))] or list(scores)[:2]
    return ", ".join(f"{name} {scores[name]:.3f}" for name in chosen)
