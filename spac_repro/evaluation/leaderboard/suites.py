"""The leaderboards: which tasks, which questions, and the scores of a model on them."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spac_repro.documents.names import did_you_mean
from spac_repro.errors import UserError
from spac_repro.evaluation import leaderboard
from spac_repro.evaluation.leaderboard import mini, openllm
from spac_repro.evaluation.leaderboard.table import average
from spac_repro.evaluation.leaderboard.task import Leaves, Task
from spac_repro.runs.results import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spac_repro.data.world import World
    from spac_repro.evaluation.leaderboard.harness import Progress

SUITES: dict[str, tuple[Task, ...]] = dict(zip(leaderboard.SUITES, (mini.TASKS, openllm.TASKS), strict=True))
FEWSHOT_SEED = 1234  # the harness's default


def harness() -> str:
    """The harness and its version, as recorded beside scores: "lm_eval 0.4.13"."""
    return f"lm_eval {version('lm_eval')}"


def chosen_tasks(suite: str, tasks: Sequence[str] | None = None) -> list[Task]:
    """The named tasks of a suite, in the suite's order; all of them by default. Raises UserError with the nearest name."""
    known = {task.name: task for task in _known("suite", suite, SUITES)}
    for name in tasks or ():
        _known(f"task of {suite}", name, known)
    if tasks is not None and not tasks:
        raise UserError(f"no task named; the tasks of {suite} are {', '.join(known)}")
    return [task for name, task in known.items() if tasks is None or name in tasks]


def questions(
    suite: str,
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
    if suite == "mini":
        return {task: task.first(leaves, limit) for task, leaves in _of_world(chosen, data, world).items()}
    if data is not None and not data.is_dir():
        raise UserError(f"{data} is not a folder; give the folder that holds the questions, one folder a benchmark")
    return {task: task.first(task.from_hub() if data is None else task.from_files(data), limit) for task in chosen}


def _of_world(tasks: Sequence[Task], data: Path | None, world: "World | None") -> dict[Task, Leaves]:
    if data is not None or world is None:
        raise UserError("the suite mini asks questions of the built-in world; give a recipe that has one, and no data")
    items = mini.mini_items(world)
    return {task: task.by_subject(items[task.name], "the built-in world") for task in tasks}


def evaluate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    suite: str,
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

    suite: "openllm" (see openllm.py) or "mini" (see mini.py). tasks: names of tasks, all by default.
    data: a folder with the questions of openllm, one folder a benchmark; without it the harness's stock data sets are used.
    world: the built-in world, whose questions mini asks.
    limit: at most so many questions a task, the first ones; with subjects, in all, spread evenly over them.
    batch_size: affects speed, and scores by rounding only. seed: draws the few-shot examples; the default is the harness's own.
    progress: called with (task, requests answered, requests in all).

    Deterministic; global random generators are neither seeded nor used. The model is left in the mode it was in.
    Raises UserError for an unknown suite or task, a bad limit, and missing, empty or garbled files (naming file and line);
    UnfitEnvironmentError where the questions are neither in files, nor cached, nor on a hub that answers.
    """
    asked = questions(suite, tasks=tasks, data=data, world=world, limit=limit)

    from spac_repro.evaluation.leaderboard.harness import measure

    scores = measure(model, tokenizer, asked, batch_size=batch_size, seed=seed, progress=progress)
    return [*scores, *average(scores, SUITES[suite])]


def _known(kind: str, name: str, names: Any) -> Any:
    if name not in names:
        raise UserError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    return names[name]
