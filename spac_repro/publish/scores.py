"""The scores of groups of runs: their names, their means over seeds, and the report's tables of them."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro import methods
from spac_repro.publish.groups import Group, RunView
from spac_repro.runs.results import Score


def tables(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """For every group: a row a score, a column an iterate."""
    for group in groups:
        iterations = sorted({t for view in group.runs for t in view.scores})
        method = group.first.manifest.method
        yield {
            "label": group.label,
            "seeds": [str(view.manifest.seed) for view in group.runs],
            "iterations": iterations,
            "rows": [_row(group, iterations, task, metric) for task, metric in score_names(group)],
            "kind": methods.get(method).summary if method in methods.names() else "",
        }


def score_names(group: Group) -> list[tuple[str, str]]:
    """Task and metric of every score that a run of the group has."""
    return list(dict.fromkeys((score.task, score.metric) for view in group.runs for its in view.scores.values() for score in its))


def mean_and_error(group: Group, t: int, task: str, metric: str) -> tuple[float, float | None] | None:
    """The mean over seeds with their standard deviation; of one run its value with the harness's standard error."""
    found = [score for view in group.runs if (score := _score(view, t, task, metric))]
    if not found:
        return None
    values = [score.value for score in found]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else found[0].stderr


def _row(group: Group, iterations: Sequence[int], task: str, metric: str) -> dict[str, Any]:
    known = next((score for t in iterations if (score := _score(group.first, t, task, metric))), None)
    cells = [_cell(group, t, task, metric) for t in iterations]
    return {"task": task, "metric": metric, "n": known and known.n, "note": known.note if known else "", "cells": cells}


def _score(view: RunView, t: int, task: str, metric: str) -> Score | None:
    return next((score for score in view.scores.get(t, ()) if (score.task, score.metric) == (task, metric)), None)


def _cell(group: Group, t: int, task: str, metric: str) -> str:
    found = mean_and_error(group, t, task, metric)
    if found is None:
        return "–"
    return f"{found[0]:.3f}" + ("" if found[1] is None else f" ± {found[1]:.3f}")
