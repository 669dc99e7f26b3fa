"""The scores of A and B on the same questions: differences, intervals, p values, and what could have been found.

One evaluation on each side: shares are tested by McNemar's exact test, everything else by sign flips, the average by Student's t
too. Several evaluations on a side are runs of several seeds, and seeds and questions are both taken as noise
(`crossed_effects.py`). p values are corrected over tasks by Holm's method. docs/decisions/15-paired.md has the reasons.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from spac_repro.runs.answers import Metric
from spac_repro.trust.crossed_effects import Questions, estimate
from spac_repro.trust.paired_tests import PValue, detectable_share, holm, mcnemar, share_interval, sign_flips
from spac_repro.trust.question_pairs import AVERAGE_METRIC, PairedTask

if TYPE_CHECKING:
    import numpy as np

ALPHA = 0.05  # probability that any primary row is significant where no score differs; intervals have the level 1 − ALPHA each


@dataclass(frozen=True)
class PairedScore:
    """A score of A and of B on the same questions.

    Attributes:
        task: The task, or "average".
        metric: The metric.
        primary: Whether it is the primary metric of its task, or the average: p values are corrected over these rows.
        questions: Questions that all were asked.
        clusters: Clusters of questions that depend on each other; as many as questions if all are independent.
        asked: The smallest and the largest number of questions of the task that an evaluation was asked.
        a: Score of A on these questions; a mean over its runs.
        b: Score of B.
        low: Lower end of the 95 % interval of B − A; None if it is not known.
        high: Upper end.
        p: The p value of no difference; None if it is not known.
        corrected_p: The same, corrected over the primary rows; None for other rows.
        detectable: The true difference that the test would find with probability 0.8, at its part of the level; None if not known.
        gained: Questions that B alone answers, of one evaluation on each side; None if the metric is no share.
        lost: Questions that A alone answers.
        seeds_stderr: The standard error that seeds alone have; None for one run on each side.
        questions_stderr: The standard error that questions alone have; None if it is not known.
    """

    task: str
    metric: str
    primary: bool
    questions: int
    clusters: int
    asked: tuple[int, int]
    a: float
    b: float
    low: float | None
    high: float | None
    p: PValue | None
    corrected_p: float | None = None
    detectable: float | None = None
    gained: int | None = None
    lost: int | None = None
    seeds_stderr: float | None = None
    questions_stderr: float | None = None

    @property
    def difference(self) -> float:
        """B − A."""
        return self.b - self.a

    @property
    def significant(self) -> bool:
        """Whether the corrected p value is at most `ALPHA`."""
        return self.corrected_p is not None and self.corrected_p <= ALPHA

    @property
    def note(self) -> str:
        """What to know about the questions; empty if all evaluations were asked the same ones."""
        fewest, most = self.asked
        if most == self.questions:
            return ""
        return f"paired on the {self.questions} questions in common; {fewest} to {most} were asked"

    def as_json(self) -> dict[str, Any]:
        """The row as `compare --json` prints it."""
        p = {"p": self.p and self.p.value, "p_method": self.p and self.p.method, "p_stderr": self.p and self.p.error}
        return {**asdict(self), **p, "difference": self.difference, "significant": self.significant}


@dataclass(frozen=True)
class _Assumed:
    """What all rows of a table have in common."""

    matched: bool  # runs of the same seed are paired
    by_subject: bool  # questions of a subject are one cluster
    level: float  # of a row, for what could be found: the part of `ALPHA` that Holm's first step leaves it


def paired_scores(
    tasks: Sequence[PairedTask], parts: Sequence[PairedTask], *, matched: bool, by_subject: bool
) -> list[PairedScore]:
    """Compare each metric of each task, and the average, with p values that are corrected over the primary rows.

    Args:
        tasks: the tasks.
        parts: the tasks that the average is taken of; none for no average.
        matched: whether the runs of A and B with one seed are paired.
        by_subject: whether the questions of a subject count as one cluster.
    """
    assumed = _Assumed(matched, by_subject, ALPHA / (len(tasks) + bool(parts)))
    rows = [_score(task, metric, assumed) for task in tasks for metric in task.metrics]
    rows += [_average(parts, assumed)] if parts else []
    corrected = iter(holm([row.p.value for row in rows if row.primary and row.p is not None]))
    return [replace(row, corrected_p=next(corrected)) if row.primary and row.p is not None else row for row in rows]


def _score(task: PairedTask, metric: Metric, assumed: _Assumed) -> PairedScore:
    a, b = task.values(metric.name)
    questions = task.weighting(metric, by_subject=assumed.by_subject)
    row = _row((task.about.name, metric.name, metric is task.primary), task.asked, (a, b), questions, assumed)
    if len(a) > 1 or len(b) > 1 or not (_is_share(a) and _is_share(b)):
        return row
    gained, lost, count = int((b > a).sum()), int((a > b).sum()), row.questions
    row = replace(row, gained=gained, lost=lost)
    if row.clusters < count or not bool((questions.weights == questions.weights[0]).all()):
        return row
    low, high = share_interval(gained, lost, count, ALPHA)
    detectable = detectable_share(gained, lost, count, assumed.level)
    return replace(row, low=low, high=high, p=mcnemar(gained, lost), detectable=detectable)


def _average(parts: Sequence[PairedTask], assumed: _Assumed) -> PairedScore:
    """The row of the average over tasks, each by its primary metric. Each task is a stratum of its own."""
    import numpy as np

    values = [part.values(part.primary.name) for part in parts]
    own = [part.weighting(part.primary, by_subject=assumed.by_subject) for part in parts]
    starts = np.cumsum([0, *(each.clusters.max() + 1 for each in own)])
    questions = Questions(
        np.concatenate([each.weights for each in own]) / len(own),
        np.concatenate([each.clusters + start for each, start in zip(own, starts, strict=False)]),
        np.concatenate([each.strata + number for number, each in enumerate(own)]),
    )
    a, b = (np.concatenate([pair[side] for pair in values], axis=1) for side in (0, 1))
    fewest, most = (sum(part.asked[end] for part in parts) for end in (0, 1))
    return _row((*AVERAGE_METRIC, True), (fewest, most), (a, b), questions, assumed)


def _row(
    name: tuple[str, str, bool],
    asked: tuple[int, int],
    sides: "tuple[np.ndarray, np.ndarray]",
    questions: Questions,
    assumed: _Assumed,
) -> PairedScore:
    """A row by the model of crossed effects; with one evaluation on each side, its p value is that of sign flips."""
    import numpy as np

    a, b = sides
    found = estimate(a, b, questions, matched=assumed.matched)
    low, high = found.interval(ALPHA) or (None, None)
    detectable = found.detectable(assumed.level)
    if min(a.min(), b.min()) >= 0.0 and max(a.max(), b.max()) <= 1.0:  # then no difference is larger than 1
        low, high = low and max(low, -1.0), high and min(high, 1.0)
        detectable = None if detectable is None or detectable > 1.0 else detectable
    task, metric, primary = name
    p = found.p()
    if len(a) == len(b) == 1:
        flips = sign_flips(np.bincount(questions.clusters, questions.weights * (b - a)[0]))
        is_average = (task, metric) == AVERAGE_METRIC  # over tasks whose differences are of other sizes: decision 15
        p = max(flips, p, key=lambda each: each.value) if is_average and p else flips
    return PairedScore(
        task=task,
        metric=metric,
        primary=primary,
        questions=a.shape[1],
        clusters=len(np.unique(questions.clusters)),
        asked=asked,
        a=float(a.mean(axis=0) @ questions.weights),
        b=float(b.mean(axis=0) @ questions.weights),
        low=low,
        high=high,
        p=p,
        detectable=detectable,
        seeds_stderr=found.seeds,
        questions_stderr=found.questions,
    )


def _is_share(values: "np.ndarray") -> bool:
    return bool(((values == 0.0) | (values == 1.0)).all())
