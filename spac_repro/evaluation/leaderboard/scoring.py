"""A model's scores on a suite: which tasks, which questions, and what the harness makes of the answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.table import average
from spac_repro.evaluation.leaderboard.task import Leaves, Task
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.runs.results import Score
from spac_repro.suites import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spac_repro.data.world import World
    from spac_repro.evaluation.leaderboard.harness import Progress

FEWSHOT_SEED = 1234  # the harness's default


def harness() -> str:
    """The harness and its version, as recorded beside scores: "lm_eval 0.4.13"."""
    return f"lm_eval {version('lm_eval')}"


def chosen_tasks(suite: Suite, tasks: Sequence[str] | None = None) -> list[Task]:
    """The named tasks of a suite, in the suite's order; all of them by default. Raises UserError with the nearest name."""
    known = {task.name: task for task in tasks_of(suite)}
    if not known:
        raise UserError(f"the suite {suite.name} asks nothing; choose another with --suite")
    for name in tasks or ():
        if name not in known:
            raise UserError(f"unknown task of {suite.name} {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    if tasks is not None and not tasks:
        raise UserError(f"no task named; the tasks of {suite.name} are {', '.join(known)}")
    return [task for name, task in known.items() if tasks is None or name in tasks]


def questions(
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    data: Path | None = None,
    world: "World | None" = None,
    limit: int | None = None,
) -> dict[Task, Leaves]:
    """The questions that `evaluate` asks when called with the same arguments, read and checked. For errors, see there."""
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; ask at least 1 question a task")
    chosen = chosen_tasks(suite, tasks)
    if suite.uses_world:
        return {task: task.first(leaves, limit) for task, leaves in _of_world(suite, chosen, data, world).items()}
    if data is not None and not data.is_dir():
        raise UserError(f"{data} is not a folder; give the folder that holds the questions, one folder a benchmark")
    return {task: task.first(task.from_hub() if data is None else task.from_files(data), limit) for task in chosen}


def _of_world(suite: Suite, tasks: Sequence[Task], data: Path | None, world: "World | None") -> dict[Task, Leaves]:
    if data is not None or world is None:
        raise UserError(f"the suite {suite.name} asks questions of the built-in world; give a recipe that has one, and no data")
    made = suite.load_question_generator()(world)
    return {task: task.grouped(made[task.name], "the built-in world") for task in tasks}


def evaluate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    data: Path | None = None,
    world: "World | None" = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = FEWSHOT_SEED,
    progress: "Progress | None" = None,
) -> list[Score]:
    """The model's scores on a suite, by lm-eval; the average comes last where all tasks of the suite were asked.

    tasks: names of tasks, all by default.
    data: a folder with the questions, one folder a task; without it they come from the hub. Not for a suite that asks the world.
    world: the built-in world, for a suite that asks it.
    limit: at most so many questions a task, the first ones; with subjects, in all, spread evenly over them.
    batch_size: affects speed, and scores by rounding only. seed: draws the few-shot examples; the default is the harness's own.
    progress: called with (task, requests answered, requests in all).

    Deterministic; global random generators are neither seeded nor used. The model is left in the mode it was in.

    Raises:
        UserError: a wrong task file, an unknown task, a bad limit; missing, empty or garbled files, with file and line.
        UnfitEnvironmentError: the questions are neither in files, nor cached, nor on a hub that answers.
    """
    asked = questions(suite, tasks=tasks, data=data, world=world, limit=limit)

    from spac_repro.evaluation.leaderboard.harness import measure

    with _faults_of(suite):
        scores = measure(model, tokenizer, asked, batch_size=batch_size, seed=seed, progress=progress)
    return [*scores, *average(scores, tasks_of(suite))]


@contextmanager
def _faults_of(suite: Suite) -> Iterator[None]:
    """What the harness cannot do with a task of one's own is its author's mistake, and no fault of the program's."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, LookupError, ValueError, TypeError, AttributeError, AssertionError, SyntaxError) as error:
        if suite.folder is None:
            raise
        what = one_line(f"{type(error).__name__}: {error}", 120)
        where = one_line("; ".join(getattr(error, "__notes__", ())), 100)
        raise UserError(f"{one_line(suite.folder, 60)}: {where}: the harness failed ({what})") from None
