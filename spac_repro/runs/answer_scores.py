"""Scores from answers: the one function from which results.json is computed, and the check that answers and scores agree.

The arithmetic is the harness's own, in its order, so that scores have its bits. The standard deviation s is that of a sample.
"""

import json
import math
import re
import statistics
import string
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.runs.answers import Answer, Answers, ExtractionStep, Metric, TaskAbout, TaskAnswers
from spac_repro.runs.results import Score, clustered_standard_error, standard_error

AVERAGE = "average"
NOT_FOUND = "[invalid]"  # the harness's word for a text without an answer in it
RELATIVE_ERROR = 1e-9  # of a repeated computation: the harness's exponentials are NumPy's

Estimate = tuple[float, float | None, int]  # value, standard error, number of independent items


def scores(answers: Answers) -> list[Score]:
    """Compute the score of each metric of each task, and the average at the end if no task of the suite was left out."""
    found = [score for task in answers.tasks() for score in task_scores(task)]
    primary = {task.name: task.metrics[0].name for task in answers.about.tasks}
    averaged = [(name, primary[name]) for name in answers.about.averaged]
    return [*found, *(average(found, averaged) if averaged else [])]


def task_scores(task: TaskAnswers) -> list[Score]:
    """Compute the score of each metric of a task."""
    return [_score(task.about, metric, task.rows) for metric in task.about.metrics]


def _score(task: TaskAbout, metric: Metric, rows: Sequence[Answer]) -> Score:
    if metric.mean == "recorded":
        value, stderr = metric.recorded or (math.nan, None)
        n = len(rows)
    else:
        value, stderr, n = MEANS[metric.mean]([row.metrics[metric.name] for row in rows], rows)
    note = task.note if metric.note is None else metric.note
    return Score(task.name, metric.name, value, stderr, n, task.version, metric.higher_is_better, note)


def average(scores: Iterable[Score], parts: Sequence[tuple[str, str]]) -> list[Score]:
    """The plain mean of the named scores, as the leaderboard takes it; an empty list if one is missing.

    The standard error treats the errors of the tasks as independent. n counts all questions.

    Args:
        scores: The scores.
        parts: Task and metric of each score that counts.
    """
    by_name = {(score.task, score.metric): score for score in scores}
    if not parts or any(part not in by_name for part in parts):
        return []
    found = [by_name[part] for part in parts]
    errors = [part.stderr for part in found if part.stderr is not None]
    stderr = math.sqrt(math.fsum(error**2 for error in errors)) / len(found) if len(errors) == len(found) else None
    return [Score(AVERAGE, "mean", math.fsum(part.value for part in found) / len(found), stderr, sum(part.n for part in found))]


# From the values of the items to a score


def _sum(values: Iterable[float]) -> float:
    """The sum from left to right, as the harness takes it; the built-in `sum` of Python 3.12 rounds otherwise."""
    return reduce(add, values, 0.0)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Σ v/n, and s/√n; no error for one value."""
    mean = _sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(_sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / math.sqrt(len(values))


def _items(values: Sequence[float], rows: Sequence[Answer]) -> Estimate:
    return (*_mean_and_error(values), len(values))


def _subjects(values: Sequence[float], rows: Sequence[Answer]) -> Estimate:
    """The plain mean of the subjects' means, with the error √(Σ error²)/subjects."""
    means, errors, sizes = _by_subject(values, rows)
    mean = math.fsum(means) / len(means)
    if None not in errors:
        error: float | None = math.sqrt(math.fsum(error**2 for error in errors if error is not None)) / len(errors)
    else:
        sd = _pooled_sd(means, sizes)
        error = None if sd is None else sd * math.sqrt(math.fsum(1 / size for size in sizes)) / len(sizes)
    return mean, error, len(values)


def _subjects_by_size(values: Sequence[float], rows: Sequence[Answer]) -> Estimate:
    """The mean of the subjects' means by their sizes, with the error √(Σ (n − 1)·error²·n / (N − subjects) / N)."""
    means, errors, sizes = _by_subject(values, rows)
    total = sum(sizes)
    mean = _size_weighted(means, sizes)
    if None not in errors:
        squares = _sum((size - 1) * error**2 * size for size, error in zip(sizes, errors, strict=True) if error is not None)
        error: float | None = math.sqrt(squares / (total - len(sizes)) / total)
    else:
        sd = _pooled_sd(means, sizes)
        error = None if sd is None else sd / math.sqrt(total)
    return mean, error, len(values)


def _by_subject(values: Sequence[float], rows: Sequence[Answer]) -> tuple[list[float], list[float | None], list[int]]:
    groups = _grouped(values, [row.subject for row in rows])
    means, errors = zip(*map(_mean_and_error, groups), strict=True)
    return list(means), list(errors), list(map(len, groups))


def _size_weighted(means: Sequence[float], sizes: Sequence[int]) -> float:
    return _sum(mean * size for mean, size in zip(means, sizes, strict=True)) / sum(sizes)


def _pooled_sd(means: Sequence[float], sizes: Sequence[int]) -> float | None:
    """The standard deviation of all values of 0 or 1; used where a subject with one question has no error of its own."""
    share, n = _size_weighted(means, sizes), sum(sizes)
    return math.sqrt(share * (1 - share) * n / (n - 1)) if n > 1 else None


def _clusters(values: Sequence[float], rows: Sequence[Answer]) -> Estimate:
    """The mean of the clusters' means, with its error s/√clusters."""
    means = [statistics.fmean(group) for group in _grouped(values, [row.cluster for row in rows])]
    return statistics.fmean(means), standard_error(means), len(means)


def _clustered_items(values: Sequence[float], rows: Sequence[Answer]) -> Estimate:
    """The mean of the items, with the error that allows for dependence within clusters."""
    return statistics.fmean(values), clustered_standard_error(values, [row.cluster for row in rows]), len(values)


def _items_without_error(values: Sequence[float], rows: Sequence[Answer]) -> Estimate:
    return statistics.fmean(values), None, len(values)


def _grouped(values: Sequence[float], keys: Sequence[Hashable]) -> list[list[float]]:
    """The values by key, in the order in which the keys come first."""
    groups: dict[Hashable, list[float]] = {}
    for value, key in zip(values, keys, strict=True):
        groups.setdefault(key, []).append(value)
    return list(groups.values())


MEANS: Mapping[str, Callable[[Sequence[float], Sequence[Answer]], Estimate]] = {
    "items": _items,
    "subjects": _subjects,
    "subjects_by_size": _subjects_by_size,
    "clusters": _clusters,
    "clustered_items": _clustered_items,
    "items_without_error": _items_without_error,
}


# From an answer to the value of the item


def item_value(metric: Metric, row: Answer) -> float | None:
    """Compute the value of an item from its answer; None where only the task knows how.

    * acc: 1 if the likeliest choice is right. acc_norm: the same with log-probabilities divided by the choices' characters.
    * mc2: the share of the probability that the right choices have.
    * exact_match: 1 if the extracted answer is the right one.
    """
    if metric.rule is None:
        return None
    if metric.rule == "exact_match":
        found = row.extracted.get(metric.name, "")
        return float(_compared(metric, found) == _compared(metric, row.gold))
    log_probs = list(row.log_probs or ())
    right = json.loads(row.gold)
    if metric.rule == "mc2":
        probabilities = [math.exp(value) for value in log_probs]
        return math.fsum(probabilities[i] for i in right) / math.fsum(probabilities)
    lengths = row.choice_lengths if metric.rule == "acc_norm" and row.choice_lengths is not None else [1] * len(log_probs)
    normed = [value / length if length else -math.inf for value, length in zip(log_probs, lengths, strict=True)]
    return float(normed.index(max(normed)) in (right if isinstance(right, list) else [right]))


def extract(steps: Sequence[ExtractionStep], text: str) -> str:
    """Find the answer in a generated text, as the harness's filters do."""
    for step in steps:
        if step.function == "regex" and step.regex_pattern is not None:
            matches = re.findall(step.regex_pattern, text)
            match = matches[step.group_select] if matches else NOT_FOUND
            if isinstance(match, tuple):
                match = next(filter(None, match), NOT_FOUND)
            text = match.strip()
        elif step.function in ("lowercase", "uppercase"):
            text = text.lower() if step.function == "lowercase" else text.upper()
        elif step.function == "remove_whitespace":
            text = text.strip()
    return text


def _compared(metric: Metric, text: str) -> str:
    """What is left of a text for the comparison."""
    for pattern in metric.ignored:
        text = re.sub(pattern, "", text)
    text = text.lower() if metric.ignore_case else text
    return text.translate(str.maketrans("", "", string.punctuation)) if metric.ignore_punctuation else text


# Whether answers and scores agree


def check(answers: Answers, where: str) -> None:
    """Compute the value of every item from its answer again.

    Args:
        answers: The answers.
        where: The file, for errors.

    Raises:
        UserError: A value is another, or a row has not what the rule needs; the message names the item.
    """
    for task in answers.about.tasks:
        for row in answers.rows(task.name):
            place = f"{where}: item {one_line(row.item_id, 40)} of {task.name}"
            for metric in task.metrics:
                _check_value(metric, row, place)
            primary = task.metrics[0]
            if primary.rule is not None and row.correct is not None and row.metrics.get(primary.name) != row.correct:
                raise UserError(f"{place}: correct is {row.correct} there, and {primary.name} is not; evaluate again")


def _check_value(metric: Metric, row: Answer, place: str) -> None:
    try:
        found = item_value(metric, row)
        if metric.extraction is not None and row.generated is not None:
            again = extract(metric.extraction, row.generated)
            if row.extracted.get(metric.name) != again:
                raise UserError(f"{place}: {metric.name} was extracted otherwise than from its text; evaluate again")
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, re.error) as error:
        raise UserError(f"{place}: {metric.name} cannot be computed from it ({one_line(error, 60)}); evaluate again") from None
    stored = row.metrics.get(metric.name, math.nan)
    if found is not None and not math.isclose(found, stored, rel_tol=RELATIVE_ERROR, abs_tol=RELATIVE_ERROR):
        raise UserError(f"{place}: {metric.name} is {stored:g} there, and its answer gives {found:g}; evaluate again")


def differences(answers: Answers, recorded: Iterable[Score]) -> list[str]:
    """Compare recorded scores of an iterate with those that its answers give.

    Returns:
        A phrase for each score that is missing on one side, or differs in value, error, number of items or version.
    """
    ours = {(score.task, score.metric): _plain(score) for score in scores(answers)}
    theirs = {(score.task, score.metric): _plain(score) for score in recorded}
    found = []
    for key in dict.fromkeys((*theirs, *ours)):
        if key not in ours or key not in theirs:
            found.append(f"{' '.join(key)}: only in the {'scores' if key in theirs else 'answers'}")
        elif not _equal(ours[key], theirs[key]):
            found.append(f"{' '.join(key)}: {theirs[key].value:g} in the scores, and {ours[key].value:g} from the answers")
    return found


def _plain(score: Score) -> Score:
    return replace(score, note="")


def _equal(a: Score, b: Score) -> bool:
    numbers = ((a.value, b.value), (a.stderr, b.stderr))
    equal = all(
        x is y or (x is not None and y is not None and math.isclose(x, y, rel_tol=1e-12, abs_tol=1e-15)) for x, y in numbers
    )
    return equal and (a.n, a.version, a.higher_is_better) == (b.n, b.version, b.higher_is_better)
