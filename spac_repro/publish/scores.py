"""The scores of groups of runs: their names, their means over seeds, and the report's tables of them."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro import methods
from spac_repro.publish.groups import Group, RunView
from spac_repro.runs.results import Score


def score_tables(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield a table for every group: a row for each score, a column for each iterate."""
    for group in groups:
        iterations = sorted({t for view in group.runs for t in view.scores})
        method = group.first.manifest.method
        yield {
            "label": group.label,
            "seeds": [str(view.manifest.seed) for view in group.runs],
            "iterations": iterations,
            "rows": [_row(group, iterations, task, metric) for task, metric in score_names(group)],
            "kind": methods.get(method).described if method in methods.names() else "",
        }


def score_names(group: Group) -> list[tuple[str, str]]:
    """Return task and metric of every score that a run of the group has."""
    scores = (score for view in group.runs for of_iterate in view.scores.values() for score in of_iterate)
    return list(dict.fromkeys((score.task, score.metric) for score in scores))


def mean_and_error(group: Group, iteration: int, task: str, metric: str) -> tuple[float, float | None] | None:
    """Return a score's mean over seeds and their standard deviation; for one run, its value and standard error over items."""
    scores = _scores(group, iteration, task, metric)
    if not scores:
        return None
    values = [score.value for score in scores]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else scores[0].stderr


def values_of_runs(group: Group, iteration: int, task: str, metric: str) -> list[float]:
    """Return a score of each run of a group that has it."""
    return [score.value for score in _scores(group, iteration, task, metric)]


def _scores(group: Group, iteration: int, task: str, metric: str) -> list[Score]:
    return [score for view in group.runs if (score := _score(view, iteration, task, metric))]


def _row(group: Group, iterations: Sequence[int], task: str, metric: str) -> dict[str, Any]:
    example = next((score for t in iterations if (score := _score(group.first, t, task, metric))), None)
    cells = [_cell(group, t, task, metric) for t in iterations]
    return {"task": task, "metric": metric, "n": example and example.n, "note": example.note if example else "", "cells": cells}


def _score(view: RunView, iteration: int, task: str, metric: str) -> Score | None:
    return next((score for score in view.scores.get(iteration, ()) if (score.task, score.metric) == (task, metric)), None)


def _cell(group: Group, iteration: int, task: str, metric: str) -> str:
    mean = mean_and_error(group, iteration, task, metric)
    if mean is None:
        return "–"
    return f"{mean[0]:.3f}" + ("" if mean[1] is None else f" ± {mean[1]:.3f}")
