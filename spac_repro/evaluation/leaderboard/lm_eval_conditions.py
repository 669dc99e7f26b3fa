"""Whether a results file of lm-eval was measured as the leaderboard's tasks are: same prompts, same examples, same metrics.

A prompt with other few-shot examples, or inside a chat template, is another task under the same name. The scores of this package
are measured with the number of examples in the task file, and without chat template and system instruction.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.trust.run_scores import IncomparableError

Results = Mapping[str, Mapping[str, Any]]

FORK_NAME = re.compile(r"[\w-]+\|[^|]+\|\d+")  # "harness|arc:challenge|25": the first Open LLM Leaderboard, and lighteval
OLD_METRICS = ("acc", "acc_norm", "mc1", "mc2", "em", "exact_match")  # without ",filter": lm-eval 0.3
OLD_FILTERS = {"gsm8k": "get-answer"}  # lm-eval 0.4.0 and 0.4.1
REMEDY = "evaluate again with the lm-eval of requirements/"


def check(path: Path, content: Mapping[str, Any], results: Results, known: Mapping[str, Task]) -> None:
    """Check that the tasks that the package knows were measured as it measures them. Other tasks are not checked.

    Args:
        path: the results file.
        content: what it holds.
        results: its object `results`: metrics by task.
        known: the package's tasks by name.

    Raises:
        IncomparableError: they were not, or the file does not say so; the message names the task and the difference.
    """
    _check_names(path, results)
    measured = {name: known[name] for name in results if name in known}
    for name, task in measured.items():
        old = OLD_FILTERS.get(name)
        if any(key.endswith(f",{old}") for key in results[name]):
            raise IncomparableError(f"{path}: {name} has the filter {old} of lm-eval 0.4.0, which extracts other answers; {REMEDY}")
        _check_examples(path, content, name, task)
    if measured:
        _check_chat(path, content, next(iter(measured)))


def _check_names(path: Path, results: Results) -> None:
    """Raise IncomparableError for names that lm-eval 0.4 does not use."""
    for name, metrics in results.items():
        if FORK_NAME.fullmatch(name):
            raise IncomparableError(
                f"{path}: the task name {name} is of the Open LLM Leaderboard's fork of lm-eval 0.3, or of lighteval, "
                f"whose prompts and metrics are others; {REMEDY}"
            )
        old = [metric for metric in OLD_METRICS if metric in metrics]
        if old:
            raise IncomparableError(
                f"{path}: {name} has the metric {old[0]} without a filter ({old[0]},none), as lm-eval 0.3 wrote it; "
                f"its prompts and metrics are others; {REMEDY}"
            )


def _check_examples(path: Path, content: Mapping[str, Any], name: str, task: Task) -> None:
    """Raise IncomparableError unless every subtask was asked with the task's number of few-shot examples."""
    for subtask in leaves(content, name):
        given = entry(content, "n-shot", subtask)
        if given is None:
            raise IncomparableError(
                f"{path}: it has no n-shot of {subtask}, so nothing says how many few-shot examples there were; {REMEDY}"
            )
        if given != task.num_fewshot:
            raise IncomparableError(
                f"{path}: {subtask} was measured with {given} few-shot examples, and {name} here has {task.num_fewshot}; "
                f"evaluate again with --num_fewshot {task.num_fewshot}"
            )


def _check_chat(path: Path, content: Mapping[str, Any], example: str) -> None:
    """Raise IncomparableError for prompts inside a chat template, or after a system instruction."""
    settings = {
        "a system instruction": ("system_instruction", "system_instruction_sha"),
        "a chat template": ("chat_template", "chat_template_sha"),
        "few-shot examples as turns of a chat": ("fewshot_as_multiturn",),
    }
    for words, keys in settings.items():
        if any(content.get(key) for key in keys):
            raise IncomparableError(
                f"{path}: {example} was measured with {words} ({keys[0]}), and the scores here without; evaluate again without it"
            )


def leaves(content: Mapping[str, Any], name: str) -> list[str]:
    """The subtasks of a task that have no subtasks of their own; the task itself if it has none."""
    children = entry(content, "group_subtasks", name)
    if not isinstance(children, list) or not children:
        return [name]
    below: Iterable[list[str]] = (leaves(_without(content, name), str(child)) for child in children)
    return [leaf for names in below for leaf in names]


def _without(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The content without the subtasks of a task: a group that contains itself ends there."""
    groups = {group: children for group, children in content["group_subtasks"].items() if group != name}
    return {**content, "group_subtasks": groups}


def entry(content: Mapping[str, Any], table: str, name: str) -> Any:
    """What one of the file's tables, which map tasks to values, has for a task; None if there is nothing."""
    found = content.get(table)
    return found.get(name) if isinstance(found, dict) else None
