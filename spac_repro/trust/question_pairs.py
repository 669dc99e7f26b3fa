"""The questions that several evaluations have in common, with the values that each of them gives to each question.

Two questions are the same if they have the same task and the same content (`Answer.content_sha256`). Neither the prompt around a
question nor its place in a file counts. A question that a task asks twice is paired in the order in which it is asked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.runs.answer_scores import AVERAGE
from spac_repro.runs.answers import Answer, Answers, Metric, TaskAbout

if TYPE_CHECKING:
    import numpy as np

    from spac_repro.trust.crossed_effects import Questions

# Of the package's own tasks, the metric that is tested; the first one of any other task is its primary one.
PRIMARY = {"gold": "reward", "heldout": "margin"}
Key = tuple[str, int]  # the hash of the content, and how often it was asked before


class NoAnswersError(UserError):
    """There are no answers: a run is unfinished, evaluates nothing, or was made before version 0.3."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation that is compared: of an iterate of a run, of a model, or read from another program's files.

    Attributes:
        name: What a table calls it.
        answers: Its answers.
        seed: The seed of the run; None if it is not known.
        protocol: The named protocol; None if the files do not record it.
    """

    name: str
    answers: Answers
    seed: int | None = None
    protocol: str | None = "current"


@dataclass(frozen=True)
class PairedTask:
    """A task's questions that all evaluations were asked.

    Attributes:
        about: The task as the first evaluation describes it.
        metrics: The metrics that every evaluation has.
        a: [evaluations of A][questions] the answers.
        b: [evaluations of B][questions] the answers to the same questions.
        asked: The smallest and the largest number of questions that an evaluation was asked.
    """

    about: TaskAbout
    metrics: tuple[Metric, ...]
    a: tuple[tuple[Answer, ...], ...]
    b: tuple[tuple[Answer, ...], ...]
    asked: tuple[int, int]

    @property
    def primary(self) -> Metric:
        """The metric by which the task is judged."""
        wanted = PRIMARY.get(self.about.name)
        return next((metric for metric in self.metrics if metric.name == wanted), self.metrics[0])

    @property
    def questions(self) -> tuple[Answer, ...]:
        """The questions, as the first evaluation answers them."""
        return self.a[0]

    def values(self, metric: str) -> "tuple[np.ndarray, np.ndarray]":
        """Two arrays [evaluations, questions] with the values of a metric: those of A and those of B."""
        import numpy as np

        a, b = (np.array([[row.metrics[metric] for row in rows] for rows in side], dtype=float) for side in (self.a, self.b))
        return a, b

    def weighting(self, metric: Metric, *, by_subject: bool = False) -> "Questions":
        """How the score weights the questions, and which of them depend on each other.

        Args:
            metric: the metric.
            by_subject: whether the questions of a subject count as one cluster.
        """
        import numpy as np

        from spac_repro.trust.crossed_effects import Questions

        rows, count = self.questions, len(self.questions)
        subjects = _numbered([row.subject or "" for row in rows])
        groups = {"subjects": subjects, "clusters": self._clusters()}.get(metric.mean)
        weights = np.full(count, 1 / count)
        if groups is not None:
            sizes = np.bincount(groups)
            weights = 1 / (sizes[groups] * len(sizes))
        has_subjects = by_subject and any(row.subject is not None for row in rows)
        return Questions(weights, subjects if has_subjects else self._clusters(), np.zeros(count, dtype=int))

    def _clusters(self) -> "np.ndarray":
        return _numbered([row.item_id if row.cluster is None else (row.cluster,) for row in self.questions])


def _numbered(names: Sequence[object]) -> "np.ndarray":
    import numpy as np

    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


def pair(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> list[PairedTask]:
    """Find the questions that all evaluations were asked, task by task. A task that one of them lacks is left out.

    Args:
        a: one group of evaluations.
        b: the other group.

    Raises:
        UserError: there is no common task, a task has no common question, or the evaluations have no metric of it in common.
    """
    every = (*a, *b)
    tables = [each.answers.by_task() for each in every]
    names = [name for name in tables[0] if all(table.get(name) for table in tables)]
    if not names:
        kind = UserError if all(each.answers.about.tasks for each in every) else NoAnswersError
        raise kind(f"{every[0].name} and {_lacking(every).name} have no task in common, so there is nothing to compare")
    return [_pair_task(name, every, [table[name] for table in tables], len(a)) for name in names]


def _lacking(every: Sequence[Evaluation]) -> Evaluation:
    """The first evaluation that has no task of the first one; the last one if each has some."""
    tasks = {task.name for task in every[0].answers.about.tasks}
    return next((each for each in every[1:] if not tasks & {task.name for task in each.answers.about.tasks}), every[-1])


def _pair_task(name: str, every: Sequence[Evaluation], rows: Sequence[Sequence[Answer]], in_a: int) -> PairedTask:
    abouts = [next(task for task in each.answers.about.tasks if task.name == name) for each in every]
    by_key = [dict(_keyed(own)) for own in rows]
    common = [key for key in by_key[0] if all(key in own for own in by_key[1:])]
    if not common:
        other = next(
            (each.name for each, own in zip(every, by_key, strict=True) if not own.keys() & by_key[0].keys()), every[-1].name
        )
        raise UserError(
            f"{one_line(name, 60)}: {every[0].name} and {other} were asked other questions, none in common; "
            "evaluate both on the same questions"
        )
    answers = tuple(tuple(own[key] for key in common) for own in by_key)
    metrics = tuple(
        metric
        for metric in abouts[0].metrics
        if metric.mean != "recorded" and all(metric.name in row.metrics for own in answers for row in own)
    )
    if not metrics:
        raise UserError(
            f"{one_line(name, 60)}: {every[0].name} has the metrics {', '.join(_metric_names(abouts[0]))}, "
            f"and {every[-1].name} has {', '.join(_metric_names(abouts[-1]))}; there is none in common"
        )
    sizes = [len(own) for own in rows]
    return PairedTask(abouts[0], metrics, answers[:in_a], answers[in_a:], (min(sizes), max(sizes)))


def _metric_names(about: TaskAbout) -> list[str]:
    return [metric.name for metric in about.metrics]


def _keyed(rows: Sequence[Answer]) -> Iterator[tuple[Key, Answer]]:
    asked: dict[str, int] = {}
    for row in rows:
        before = asked.get(row.content_sha256, 0)
        asked[row.content_sha256] = before + 1
        yield (row.content_sha256, before), row


def averaged(tasks: Sequence[PairedTask], every: Sequence[Evaluation]) -> list[PairedTask]:
    """The tasks of the average, if all evaluations take it over the same several tasks, and all are paired; otherwise none."""
    names = every[0].answers.about.averaged
    by_name = {task.about.name: task for task in tasks}
    if len(names) < 2 or any(each.answers.about.averaged != names for each in every) or not set(names) <= by_name.keys():
        return []
    return [by_name[name] for name in names]


AVERAGE_METRIC = (AVERAGE, "mean")
