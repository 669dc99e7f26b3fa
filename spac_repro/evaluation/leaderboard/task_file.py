"""Reads task files, and refuses those that contradict themselves."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spac_repro.documents import yaml_subset
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.evaluation.leaderboard.task_keys import SUBJECT
from spac_repro.suites import Suite

RESERVED_NAMES = ("average", "gold", "heldout")  # tasks of other scores
METRICS = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",)}
EXAMPLE = "docs/leaderboard.md has a whole task file"
RENAMED = {  # keys of 0.1
    "shots": "num_fewshot",
    "examples": "fewshot_split",
    "asked": "test_split",
    "generates": "max_gen_toks",
    "overlap": "contamination_column",
    "row": "row_schema",
}

Problem = tuple[tuple[str, ...], str]  # a key, and what is wrong with it


def tasks_of(suite: Suite) -> tuple[Task, ...]:
    """The tasks of a suite, in its order.

    Raises:
        UserError: a task file is wrong (the message names file, line and key), or two tasks have the same name.
    """
    tasks = tuple(map(read, suite.task_files))
    for name, times in Counter(task.name for task in tasks).items():
        if times > 1:
            files = [file.name for file, task in zip(suite.task_files, tasks, strict=True) if task.name == name]
            raise UserError(f"{suite.folder}: {' and '.join(files)} are both called {name}; rename one")
    return tasks


def read(file: Path) -> Task:
    """Read the task of one file.

    Raises:
        UserError: the file is wrong; the message names line and key.
    """
    document = yaml_subset.read(file)
    for key in document.value if isinstance(document.value, dict) else ():
        if key in RENAMED:
            raise document.error((key,), f"renamed to {RENAMED[key]} in version 0.2")
    task = validate(Task, document.value, document, missing_key_remedy=EXAMPLE)
    for key, problem in (*_name_problems(task), *_column_problems(task), *_metric_problems(task)):
        raise document.error(key, problem)
    return task


def _name_problems(task: Task) -> Iterator[Problem]:
    if task.name in RESERVED_NAMES:
        yield ("name",), f"{task.name} is the name of other scores; choose another"
    if task.num_fewshot and task.fewshot_split is None:
        yield ("fewshot_split",), f"missing: the split that {task.num_fewshot} examples are drawn from"
    if task.fewshot_split == task.test_split:
        yield ("fewshot_split",), "must differ from test_split"
    if not task.by_subject and SUBJECT in (task.prompt.include or ""):
        yield ("by_subject",), f"must be true where the prompt's file depends on the {SUBJECT}"


def _column_problems(task: Task) -> Iterator[Problem]:
    """Every column that the prompt or the metrics use must be required of every row; other columns are dropped."""
    if (task.row_schema is None) == (task.columns is None):
        yield ("columns",), "give either `row_schema`, a schema that the package has, or `columns`, which every row must have"
        return
    columns = [field.alias or name for name, field in task.row_model.model_fields.items()]
    column = task.contamination_column
    if column is not None and column not in columns:
        yield ("contamination_column",), f"`columns` has no {column}{did_you_mean(column, columns)}"
    if task.by_subject and "subject" not in columns:
        yield ("columns",), "a task with by_subject needs the column subject"
    for key, named in task.prompt.columns().items():
        for column in sorted(named - {*columns}):
            yield ("prompt", key), f"no column {column}{did_you_mean(column, columns)}; the columns are {', '.join(columns)}"


def _metric_problems(task: Task) -> Iterator[Problem]:
    """Metrics that the harness does not compute, or would have to download."""
    prompt = task.prompt
    if task.primary is not None and task.primary not in task.metrics:
        yield (
            ("primary",),
            f"no metric {task.primary}{did_you_mean(task.primary, task.metrics)}; there are {', '.join(task.metrics)}",
        )
    if task.by_subject and (len(task.metrics) != 2 or len({*task.metrics.values()}) != 1):
        yield ("metrics",), "a task with by_subject has two, for one key: the mean over subjects, and the mean over questions"
    if prompt.is_generative != (task.max_gen_toks > 0) and prompt.include is None:
        yield ("max_gen_toks",), "tokens of an answer: 1 or more for generate_until, absent for multiple_choice"
    if prompt.include is not None:
        return
    filters = [each.name for each in prompt.filter_list or ()] or ["none"]
    for name, key in task.metrics.items():
        metric, _, chosen = key.partition(",")
        if metric not in METRICS[prompt.output_type or "multiple_choice"]:
            known = ", ".join(METRICS[prompt.output_type or "multiple_choice"])
            yield ("metrics", name), f"{prompt.output_type} has the metrics {known}, not {metric}"
        if chosen not in filters:
            yield ("metrics", name), f"no filter {chosen}; after the comma, write one of {', '.join(filters)}"
