"""The average over the tasks of a suite, and scores as rows of a table."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.runs.results import Score

AVERAGE = "average"


def average(scores: Iterable[Score], tasks: Sequence[Task]) -> list[Score]:
    """The plain mean of the tasks' primary metrics, as the leaderboard takes it; an empty list if a task is missing.

    The standard error treats the errors of the tasks as independent. n counts all questions.
    """
    by_name = {(score.task, score.metric): score for score in scores}
    if any((task.name, task.primary_metric) not in by_name for task in tasks):
        return []
    parts = [by_name[task.name, task.primary_metric] for task in tasks]
    errors = [part.stderr for part in parts if part.stderr is not None]
    return [
        Score(
            task=AVERAGE,
            metric="mean",
            value=math.fsum(part.value for part in parts) / len(parts),
            stderr=math.sqrt(math.fsum(error**2 for error in errors)) / len(parts) if len(errors) == len(parts) else None,
            n=sum(part.n for part in parts),
        )
    ]


def rows(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """The scores as `--json` prints them: task, metric, value, stderr, n, version, direction and note."""
    return [score.as_dict() for score in scores]
