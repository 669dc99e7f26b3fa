"""Reads a results file that the command line of lm-eval wrote, under our names of tasks and metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spac_repro import suites
from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.table import average
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.runs.results import Score
from spac_repro.trust.run_scores import RunScores


def read(path: Path | str, *, recipe: str, method: str, iteration: int) -> RunScores:
    """Read the scores of a results file.

    The file does not record recipe, method and iteration, so the caller gives them.

    Raises:
        UserError: not a results file of lm-eval.
    """
    path = Path(path)
    content = strict_json.read(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(metrics, dict) for metrics in results.values()):
        raise UserError(f"{path}: not a results file of lm-eval (it has no object `results`); give the results_….json it wrote")
    harness = f"lm_eval {content['lm_eval_version']}" if content.get("lm_eval_version") else ""
    return RunScores(str(path), recipe, method, {iteration: tuple(_scores(content, results))}, harness)


def _scores(content: dict[str, Any], results: dict[str, dict[str, Any]]) -> Iterator[Score]:
    packaged = [tasks_of(suite) for suite in suites.builtin()]
    known = {task.name: task for tasks in packaged for task in tasks}
    scores = []
    for name, metrics in results.items():
        task = known.get(name)
        wanted = task.metrics if task else {key.removesuffix(",none"): key for key in metrics if "_stderr" not in key}
        for metric, key in wanted.items():
            value = metrics.get(key)
            error = metrics.get("_stderr,".join(key.split(",", 1)))
            if task is not None and task.by_subject and metric == task.primary_metric:  # the harness only reports the weighted mean
                value, error = _plain_mean(name, key, content, results), None
            if isinstance(value, int | float) and not isinstance(value, bool):
                version = _entry(content, "versions", name)
                scores.append(
                    Score(
                        task=name,
                        metric=metric,
                        value=float(value),
                        stderr=error if isinstance(error, float) else None,
                        n=_num_questions(name, content),
                        version="" if version is None else str(version),
                    )
                )
    yield from scores
    for tasks in packaged:
        yield from average(scores, tasks)


def _plain_mean(name: str, key: str, content: dict[str, Any], results: dict[str, dict[str, Any]]) -> float | None:
    """The plain mean over the subjects of a task; None if a subject has no number."""
    subjects = [subtask for subtask in results if subtask.startswith(f"{name}_") and not _entry(content, "group_subtasks", subtask)]
    values = [results[subtask].get(key) for subtask in subjects]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return sum(float(value) for value in values if value is not None) / len(values)


def _num_questions(name: str, content: dict[str, Any]) -> int:
    """The number of questions of a task; 0 if the file does not record it."""
    children = _entry(content, "group_subtasks", name)
    if isinstance(children, list) and children:
        return sum(_num_questions(child, content) for child in children)
    counts = _entry(content, "n-samples", name)
    effective = counts.get("effective") if isinstance(counts, dict) else None
    return effective if isinstance(effective, int) else 0


def _entry(content: dict[str, Any], table: str, name: str) -> Any:
    found = content.get(table)
    return found.get(name) if isinstance(found, dict) else None
