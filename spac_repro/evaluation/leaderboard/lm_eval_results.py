"""Reads a results file that the command line of lm-eval wrote, under our names of tasks and metrics."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spac_repro import suites
from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import lm_eval_conditions
from spac_repro.evaluation.leaderboard.average import average
from spac_repro.evaluation.leaderboard.lm_eval_conditions import entry, leaves
from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.evaluation.leaderboard.task_file import tasks_of
from spac_repro.runs.results import Score
from spac_repro.trust.run_scores import RunScores


def read(path: Path | str, *, recipe: str, method: str, iteration: int) -> RunScores:
    """Read the scores of a results file.

    The file does not record recipe, method and iteration, so the caller gives them.

    Raises:
        IncomparableError: a task of the package was measured with other prompts than the package's.
        UserError: not a results file of lm-eval.
    """
    path = Path(path)
    content = strict_json.read(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(metrics, dict) for metrics in results.values()):
        raise UserError(f"{path}: not a results file of lm-eval (it has no object `results`); give the results_….json it wrote")
    packaged = [tasks_of(suite) for suite in suites.builtin()]
    lm_eval_conditions.check(path, content, results, {task.name: task for tasks in packaged for task in tasks})
    harness = f"lm_eval {content['lm_eval_version']}" if content.get("lm_eval_version") else ""
    return RunScores(str(path), recipe, method, {iteration: tuple(_scores(content, results, packaged))}, harness)


def _scores(content: dict[str, Any], results: dict[str, dict[str, Any]], packaged: Sequence[tuple[Task, ...]]) -> Iterator[Score]:
    known = {task.name: task for tasks in packaged for task in tasks}
    scores = []
    for name, metrics in results.items():
        task = known.get(name)
        wanted = task.metrics if task else {key.removesuffix(",none"): key for key in metrics if "_stderr" not in key}
        for metric, key in wanted.items():
            value = metrics.get(key)
            error = metrics.get("_stderr,".join(key.split(",", 1)))
            if task is not None and task.by_subject and metric == task.primary_metric:  # the harness only reports the weighted mean
                value, error = _plain_mean(task, key, content, results), None
            if isinstance(value, int | float) and not isinstance(value, bool):
                version = entry(content, "versions", name)
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


def _plain_mean(task: Task, key: str, content: dict[str, Any], results: dict[str, dict[str, Any]]) -> float | None:
    """The plain mean over the subjects of a task; None if a subject has no number, or is not in the file."""
    subjects = leaves(content, task.name)
    every = {f"{task.name}_{subject}" for subject in task.prompt.stock_subjects()}
    values = [results.get(subject, {}).get(key) for subject in subjects]
    if (every and {*subjects} != every) or subjects == [task.name] or not all(isinstance(value, int | float) for value in values):
        return None
    return sum(float(value) for value in values if value is not None) / len(values)


def _num_questions(name: str, content: dict[str, Any]) -> int:
    """The number of questions of a task; 0 if the file does not record that of every subtask."""
    counts = [entry(content, "n-samples", leaf) for leaf in leaves(content, name)]
    effective = [count.get("effective") if isinstance(count, dict) else None for count in counts]
    return sum(n for n in effective if n) if all(isinstance(n, int) for n in effective) else 0
