"""Task files: read, and refused in one line where they cannot mean what they say."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spac_repro.documents import yaml_subset
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.prompt import SUBJECT
from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.suites import Suite

TAKEN = ("average", "gold", "heldout")  # what other scores are called
METRICS = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",)}
PATTERN = "docs/leaderboard.md has a whole task file"

Problem = tuple[tuple[str, ...], str]  # a key, and what is wrong with it


def tasks_of(suite: Suite) -> tuple[Task, ...]:
    """The tasks of a suite, in its order.

    Raises:
        UserError: a task file is wrong, with file, line and key; or two of them have one name.
    """
    tasks = tuple(map(read, suite.task_files))
    for name, times in Counter(task.name for task in tasks).items():
        if times > 1:
            files = [file.name for file, task in zip(suite.task_files, tasks, strict=True) if task.name == name]
            raise UserError(f"{suite.folder}: {' and '.join(files)} are both called {name}; rename one")
    return tasks


def read(file: Path) -> Task:
    """The task of one file.

    Raises:
        UserError: it is wrong, with line and key.
    """
    document = yaml_subset.read(file)
    task = validate(Task, document.value, document, missing_key_remedy=PATTERN)
    for key, problem in (*_of_names(task), *_of_columns(task), *_of_metrics(task)):
        raise document.error(key, problem)
    return task


def _of_names(task: Task) -> Iterator[Problem]:
    if task.name in TAKEN:
        yield ("name",), f"{task.name} is what other scores are called; take another"
    if task.shots and task.examples is None:
        yield ("examples",), f"missing: the split that {task.shots} examples are drawn from"
    if task.examples == task.asked:
        yield ("examples",), "examples come from another split than the questions"
    if not task.by_subject and SUBJECT in (task.prompt.include or ""):
        yield ("by_subject",), f"must be true where the prompt's file depends on the {SUBJECT}"


def _of_columns(task: Task) -> Iterator[Problem]:
    """What the prompt and the scores are made of must stand in every row: others are dropped."""
    if (task.row is None) == (task.columns is None):
        yield ("columns",), "give either `row`, a check that the package has, or `columns`, which every row must have"
        return
    columns = [field.alias or name for name, field in task.check.model_fields.items()]
    if task.overlap is not None and task.overlap not in columns:
        yield ("overlap",), f"`columns` has no {task.overlap}{did_you_mean(task.overlap, columns)}"
    if task.by_subject and "subject" not in columns:
        yield ("columns",), "a task that is asked by subject needs the column subject"
    for key, named in task.prompt.columns().items():
        for column in sorted(named - {*columns}):
            yield ("prompt", key), f"no column {column}{did_you_mean(column, columns)}; the columns are {', '.join(columns)}"


def _of_metrics(task: Task) -> Iterator[Problem]:
    """A metric that the harness would not compute, or would have to fetch."""
    prompt = task.prompt
    if task.by_subject and (len(task.metrics) != 2 or len({*task.metrics.values()}) != 1):
        yield ("metrics",), "by subject there are two, for one key: the mean over subjects, and the one over questions"
    if prompt.generates != (task.generates > 0) and prompt.include is None:
        yield ("generates",), "how many tokens an answer may have: 1 or more for generate_until, nothing elsewhere"
    if prompt.include is not None:
        return
    filters = [each.name for each in prompt.filter_list or ()] or ["none"]
    for name, key in task.metrics.items():
        metric, _, chosen = key.partition(",")
        if metric not in METRICS[prompt.output_type or "multiple_choice"]:
            known = ", ".join(METRICS[prompt.output_type or "multiple_choice"])
            yield ("metrics", name), f"{prompt.output_type} has the metrics {known}, and not {metric}"
        if chosen not in filters:
            yield ("metrics", name), f"there is no filter {chosen}; after the comma stands one of {', '.join(filters)}"
