"""Asks a model the questions of a suite: selects tasks, reads questions, runs the harness."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spac_repro import protocols
from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.task import Subtasks, Task
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.runs import answer_scores
from spac_repro.runs.answers import About, Answers
from spac_repro.runs.results import Score
from spac_repro.suites import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spac_repro.data.world import World
    from spac_repro.evaluation.leaderboard.harness import Progress

FEWSHOT_SEED = 1234  # the harness's default


def harness_version() -> str:
    """The harness and its version, as results.json records them: "lm_eval 0.4.13"."""
    return f"lm_eval {version('lm_eval')}"


def select_tasks(suite: Suite, tasks: Sequence[str] | None = None) -> list[Task]:
    """The named tasks of a suite, in the suite's order; by default all of them.

    Raises:
        UserError: an unknown task (the message suggests a similar name), no task, or an empty suite.
    """
    if suite.harness_tasks:
        from spac_repro.evaluation.leaderboard import harness_tasks

        if tasks is not None:
            raise UserError(f"--tasks {','.join(tasks)}: the suite {suite.name} names its tasks itself; omit --tasks")
        harness_tasks.check(suite.harness_tasks)
    known = {task.name: task for task in tasks_of(suite)}
    if not known and not suite.harness_tasks:
        raise UserError(f"the suite {suite.name} asks nothing; choose another with --suite")
    for name in tasks or ():
        if name not in known:
            raise UserError(f"unknown task of {suite.name} {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    if tasks is not None and not tasks:
        raise UserError(f"no task named; the tasks of {suite.name} are {', '.join(known)}")
    return [task for name, task in known.items() if tasks is None or name in tasks]


def read_questions(
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    questions_folder: Path | None = None,
    world: "World | None" = None,
    limit: int | None = None,
) -> dict[Task, Subtasks]:
    """Read and check the questions that `ask` asks when it is called with the same arguments.

    Raises:
        UserError: see `ask`.
        UnfitEnvironmentError: see `ask`.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; ask at least 1 question a task")
    chosen = select_tasks(suite, tasks)
    if suite.harness_tasks and questions_folder is not None:
        raise UserError(f"the suite {suite.name} asks lm-eval's own questions; omit --questions, or write a task file")
    if suite.uses_world:
        from_world = _world_questions(suite, chosen, questions_folder, world)
        return {task: task.limited(subtasks, limit) for task, subtasks in from_world.items()}
    if questions_folder is not None and not questions_folder.is_dir():
        raise UserError(f"{questions_folder} is not a folder; give the folder that holds the questions, one folder a benchmark")
    return {
        task: task.limited(
            task.questions_from_hub() if questions_folder is None else task.questions_from_files(questions_folder), limit
        )
        for task in chosen
    }


def _world_questions(
    suite: Suite, tasks: Sequence[Task], questions_folder: Path | None, world: "World | None"
) -> dict[Task, Subtasks]:
    if questions_folder is not None or world is None:
        raise UserError(f"the suite {suite.name} asks questions of the built-in world; give a recipe that has one, and no data")
    made = suite.load_question_generator()(world)
    return {task: task.by_subtask(made[task.name], "the built-in world") for task in tasks}


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    suite: Suite,
    *,
    tasks: Sequence[str] | None = None,
    questions_folder: Path | None = None,
    world: "World | None" = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = FEWSHOT_SEED,
    weights_sha256: str = "",
    progress: "Progress | None" = None,
    protocol: str = protocols.CURRENT,
) -> Answers:
    """Ask a model the questions of a suite with lm-eval. `answer_scores.scores` computes the scores from the answers.

    The result is deterministic: global random generators are neither seeded nor used. The model keeps its mode (train or eval).

    Args:
        model: the model.
        tokenizer: its tokenizer.
        suite: the suite.
        tasks: names of tasks; None: all tasks of the suite.
        questions_folder: a folder with the questions, one folder per task; None: they come from the hub. Must be None for a suite
            about the built-in world.
        world: the built-in world, for a suite about it.
        limit: at most this many questions per task, the first ones; spread evenly over the subjects of a task.
        batch_size: affects speed, and scores only by rounding.
        seed: of the few-shot examples; the default is the harness's own.
        weights_sha256: hash of the model's weights, which is recorded with the answers.
        progress: called with (task, requests answered, requests in all).
        protocol: the name of the evaluation protocol.

    Returns:
        The answers of each task. Their scores end with the average if all tasks of the suite were asked.

    Raises:
        UserError: a wrong task file, an unknown task, a bad limit; missing, empty or garbled files, with file and line.
        UnfitEnvironmentError: the questions are neither in files, nor cached, nor to be had from the hub.
    """
    suite = suite.under(protocols.get(protocol).name)
    questions = read_questions(suite, tasks=tasks, questions_folder=questions_folder, world=world, limit=limit)
    options: Any = {"batch_size": batch_size, "seed": seed, "progress": progress, "protocol": protocol}

    from spac_repro.evaluation.leaderboard import harness, harness_tasks

    with _task_errors_as_user_errors(suite):
        if suite.harness_tasks:
            tasks_answered = harness_tasks.measure(model, tokenizer, suite.harness_tasks, limit=limit, **options)
        else:
            tasks_answered = harness.measure(model, tokenizer, questions, **options)
    for score in (score for task in tasks_answered for score in answer_scores.task_scores(task)):
        if not math.isfinite(score.value):
            raise UserError(f"{score.task} {score.metric} is {score.value}: the model's outputs are not numbers")
    every = tuple(task.name for task in tasks_of(suite))
    averaged = every if {*every} == {task.name for task in questions} else ()
    about = About(harness=harness_version(), protocol=protocol, suite=suite.name, suite_files=suite.file_hashes())
    about = about.model_copy(update={"weights_sha256": weights_sha256, "averaged": averaged})
    return Answers.join(about, tasks_answered)


def evaluate(*arguments: Any, **options: Any) -> list[Score]:
    """The scores of `ask`, which has the same arguments."""
    return answer_scores.scores(ask(*arguments, **options))


@contextmanager
def _task_errors_as_user_errors(suite: Suite) -> Iterator[None]:
    """Turn an error of the harness on a user's own task into a UserError: the task file caused it, not the program."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, LookupError, ValueError, TypeError, AttributeError, AssertionError, SyntaxError) as error:
        if suite.folder is None:
            raise
        what = one_line(f"{type(error).__name__}: {error}", 120)
        where = one_line("; ".join(getattr(error, "__notes__", ())), 100)
        raise UserError(f"{one_line(suite.folder, 60)}: {where}: the harness failed ({what})") from None
