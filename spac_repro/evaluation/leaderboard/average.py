"""The average over the tasks of a suite, and scores as rows of a table."""

from collections.abc import Iterable, Sequence
from typing import Any

from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.runs import answer_scores
from spac_repro.runs.results import Score


def average(scores: Iterable[Score], tasks: Sequence[Task]) -> list[Score]:
    """The plain mean of the tasks' primary metrics, as the leaderboard takes it; an empty list if a task is missing."""
    return answer_scores.average(scores, [(task.name, task.primary_metric) for task in tasks])


def rows(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """The scores as `--json` prints them: task, metric, value, stderr, n, version, direction and note."""
    return [score.as_dict() for score in scores]
