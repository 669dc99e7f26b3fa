"""Two models, or two groups of runs, question by question: paired differences, tests, what could be found, and what flipped.

One evaluation on each side: shares are tested by McNemar's exact test, and everything else by sign flips. Several evaluations on a
side are runs of several seeds, and seeds and questions are both taken as noise (`crossed_effects.py`). p values are corrected over
all rows of the table by Holm's method. docs/decisions/15-paired.md has the reasons.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from spac_repro.errors import UserError
from spac_repro.runs.answers import Answer, Metric
from spac_repro.trust.crossed_effects import Questions, estimate
from spac_repro.trust.paired_tests import PValue, detectable_share, holm, mcnemar, share_interval, sign_flips
from spac_repro.trust.question_pairs import AVERAGE_METRIC, Evaluation, PairedTask, averaged, pair

if TYPE_CHECKING:
    import numpy as np

ALPHA = 0.05  # probability that any row is significant where no score differs; intervals have the level 1 − ALPHA each


@dataclass(frozen=True)
class PairedScore:
    """A score of A and of B on the same questions.

    Attributes:
        task: The task, or "average".
        metric: The metric.
        questions: Questions that all were asked.
        clusters: Clusters of questions that depend on each other; as many as questions if all are independent.
        asked: The smallest and the largest number of questions of the task that an evaluation was asked.
        a: Score of A on these questions; a mean over its runs.
        b: Score of B.
        low: Lower end of the 95 % interval of B − A; None if it is not known.
        high: Upper end.
        p: The p value of no difference; None if it is not known.
        corrected_p: The same, corrected over all rows.
        detectable: The true difference that the test would find with probability 0.8, at its part of the level; None if not known.
        gained: Questions that B alone answers, of one evaluation on each side; None if the metric is no share.
        lost: Questions that A alone answers.
        seeds_stderr: The standard error that seeds alone have; None for one run on each side.
        questions_stderr: The standard error that questions alone have; None if it is not known.
    """

    task: str
    metric: str
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

    def as_json(self) -> dict[str, Any]:
        """The row as `compare --json` prints it."""
        p = {"p": self.p and self.p.value, "p_method": self.p and self.p.method, "p_stderr": self.p and self.p.error}
        return {**asdict(self), **p, "difference": self.difference, "significant": self.significant}


@dataclass(frozen=True)
class ChangedQuestion:
    """A question on which A and B have other values of the primary metric.

    Attributes:
        task: The task.
        subject: The question's subject, if the task has subjects.
        item_id: The question's name in A's answers.
        content_sha256: The hash of the question.
        metric: The task's primary metric.
        a: Its value for A; a mean over runs.
        b: Its value for B.
        gold: What is right.
        answer_a: What A's first evaluation answered.
        answer_b: What B's first evaluation answered.
    """

    task: str
    subject: str | None
    item_id: str
    content_sha256: str
    metric: str
    a: float
    b: float
    gold: str
    answer_a: str
    answer_b: str

    def as_json(self) -> dict[str, Any]:
        """The question as `compare --json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class QuestionComparison:
    """Everything that `compare` says about two groups of evaluations, question by question.

    Attributes:
        a: Names of A's evaluations.
        b: Names of B's evaluations.
        protocols: What to know about the protocols; the first thing that is said.
        matched: Whether runs of the same seed were paired.
        by_subject: Whether the questions of a subject count as one cluster.
        scores: A row for each metric of each common task, and the average.
        changed: The questions on which A and B differ; those that differ most come first.
        left_out: Tasks that not all evaluations have.
    """

    a: tuple[str, ...]
    b: tuple[str, ...]
    protocols: str
    matched: bool
    by_subject: bool
    scores: tuple[PairedScore, ...]
    changed: tuple[ChangedQuestion, ...]
    left_out: tuple[str, ...] = ()

    @property
    def several_runs(self) -> bool:
        """Whether a side has several runs, so that the noise of seeds is known."""
        return len(self.a) > 1 or len(self.b) > 1

    @property
    def significant(self) -> tuple[PairedScore, ...]:
        """The rows that differ significantly after the correction."""
        return tuple(score for score in self.scores if score.significant)

    @property
    def summary(self) -> str:
        """The comparison in one sentence."""
        family = f"{len(self.scores)} paired scores"
        if not self.significant:
            return f"none of {family} differs significantly (Holm, {ALPHA:.0%} over all of them)"
        names = ", ".join(f"{score.task} {score.metric} {score.difference:+.4f}" for score in self.significant)
        return f"{len(self.significant)} of {family} differ significantly (Holm, {ALPHA:.0%} over all of them): {names}"

    @property
    def assumptions(self) -> str:
        """What the intervals and tests assume, in one sentence."""
        clustered = any(score.clusters < score.questions for score in self.scores)
        if self.by_subject:
            units = "subjects are drawn at random, and questions within one depend on each other"
        elif clustered:
            units = "questions of different clusters are independent, given their task and subject"
        else:
            units = "questions are independent, given their task and subject"
        if not self.several_runs:
            return f"assumed: {units}; it is about these two models, and says nothing about other seeds of their methods"
        seeds = "runs of the same seed are paired" if self.matched else "no seed of A belongs to one of B"
        one = [side for side, names in (("A", self.a), ("B", self.b)) if len(names) == 1]
        lacking = f"; {one[0]} is one run, whose seed is not taken as noise" if one else ""
        return f"assumed: {units}; seeds and questions are both random, and {seeds}{lacking}"

    def as_json(self) -> dict[str, Any]:
        """What `compare --json` prints under "questions"."""
        return {
            "a": list(self.a),
            "b": list(self.b),
            "protocols": self.protocols,
            "summary": self.summary,
            "assumptions": self.assumptions,
            "alpha": ALPHA,
            "matched_seeds": self.matched,
            "left_out": list(self.left_out),
            "scores": [score.as_json() for score in self.scores],
            "changed": [question.as_json() for question in self.changed],
        }


def compare_questions(
    a: Sequence[Evaluation], b: Sequence[Evaluation], *, by_subject: bool = False, across_protocols: bool = False
) -> QuestionComparison:
    """Compare two groups of evaluations on the questions that all of them were asked.

    Args:
        a: the evaluations of A: one, or runs of several seeds.
        b: those of B.
        by_subject: whether the questions of a subject count as one cluster.
        across_protocols: whether evaluations under different protocols are compared.

    Raises:
        UserError: different protocols without `across_protocols`, or no question in common.
    """
    every = (*a, *b)
    protocols = _say_protocols(a, b, across_protocols)
    matched = _same_seeds(a, b)
    if matched:
        places = {each.seed: place for place, each in enumerate(a)}
        b = sorted(b, key=lambda each: places[each.seed])
    tasks = pair(a, b)
    known = {task.about.name for task in tasks}
    left_out = dict.fromkeys(task.name for each in every for task in each.answers.about.tasks if task.name not in known)
    return QuestionComparison(
        tuple(each.name for each in a),
        tuple(each.name for each in b),
        protocols,
        matched,
        by_subject,
        tuple(_rows(tasks, averaged(tasks, every), matched, by_subject)),
        tuple(changed for task in tasks for changed in _changed(task)),
        tuple(left_out),
    )


def _say_protocols(a: Sequence[Evaluation], b: Sequence[Evaluation], across_protocols: bool) -> str:
    of_a, of_b = (sorted({each.protocol or "not recorded" for each in side}) for side in (a, b))
    if of_a == of_b and len(of_a) == 1:
        return f"protocol of A and B: {of_a[0]}"
    text = f"protocol of A: {', '.join(of_a)}; of B: {', '.join(of_b)}"
    if "not recorded" in (*of_a, *of_b):
        return f"{text}; a difference may come from the prompts"
    if not across_protocols:
        raise UserError(
            f"{text}: a difference would come from the protocol and the model together; "
            "evaluate both under one, or add --across-protocols"
        )
    return f"{text}: a difference comes from the protocol and the model together"


def _same_seeds(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> bool:
    """Whether both sides have the same several seeds, each once."""
    seeds_a, seeds_b = ({each.seed for each in side} for side in (a, b))
    return len(a) > 1 and len(a) == len(b) == len(seeds_a) and seeds_a == seeds_b and None not in seeds_a


# Rows


@dataclass(frozen=True)
class _Assumed:
    """What all rows of a table have in common."""

    matched: bool  # runs of the same seed are paired
    by_subject: bool  # questions of a subject are one cluster
    level: float  # of a row, for what could be found: the part of `ALPHA` that Holm's first step leaves it


def _rows(tasks: Sequence[PairedTask], parts: Sequence[PairedTask], matched: bool, by_subject: bool) -> list[PairedScore]:
    """A row for each metric of each task, and one for the average of `parts`, with corrected p values."""
    metrics = [(task, metric) for task in tasks for metric in task.metrics]
    assumed = _Assumed(matched, by_subject, ALPHA / (len(metrics) + bool(parts)))
    rows = [_score(task, metric, assumed) for task, metric in metrics]
    rows += [_average(parts, assumed)] if parts else []
    known = [row for row in rows if row.p is not None]
    corrected = iter(holm([row.p.value for row in known if row.p is not None]))
    return [row if row.p is None else replace(row, corrected_p=next(corrected)) for row in rows]


def _score(task: PairedTask, metric: Metric, assumed: _Assumed) -> PairedScore:
    a, b = task.values(metric.name)
    questions = task.weighting(metric, by_subject=assumed.by_subject)
    row = _row((task.about.name, metric.name), task.asked, (a, b), questions, assumed)
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

    values = [part.values(part.metrics[0].name) for part in parts]
    own = [part.weighting(part.metrics[0], by_subject=assumed.by_subject) for part in parts]
    starts = np.cumsum([0, *(each.clusters.max() + 1 for each in own)])
    questions = Questions(
        np.concatenate([each.weights for each in own]) / len(own),
        np.concatenate([each.clusters + start for each, start in zip(own, starts, strict=False)]),
        np.concatenate([each.strata + number for number, each in enumerate(own)]),
    )
    a, b = (np.concatenate([pair[side] for pair in values], axis=1) for side in (0, 1))
    fewest, most = (sum(part.asked[end] for part in parts) for end in (0, 1))
    return _row(AVERAGE_METRIC, (fewest, most), (a, b), questions, assumed)


def _row(
    name: tuple[str, str],
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
    if len(a) == len(b) == 1:
        p: PValue | None = sign_flips(np.bincount(questions.clusters, questions.weights * (b - a)[0]))
    else:
        p = found.p()
    task, metric = name
    return PairedScore(
        task=task,
        metric=metric,
        questions=a.shape[1],
        clusters=len(np.unique(questions.clusters)),
        asked=asked,
        a=float(a.mean(axis=0) @ questions.weights),
        b=float(b.mean(axis=0) @ questions.weights),
        low=low,
        high=high,
        p=p,
        detectable=found.detectable(assumed.level),
        seeds_stderr=found.seeds,
        questions_stderr=found.questions,
    )


def _is_share(values: "np.ndarray") -> bool:
    return bool(((values == 0.0) | (values == 1.0)).all())


# Questions


def _changed(task: PairedTask) -> list[ChangedQuestion]:
    """The questions of a task on which the primary metric differs, by the size of the difference and then in their order."""
    metric = task.metrics[0].name
    a, b = (side.mean(axis=0) for side in task.values(metric))
    found = []
    for place in sorted((int(place) for place in (a != b).nonzero()[0]), key=lambda place: -abs(b[place] - a[place])):
        row, other = task.a[0][place], task.b[0][place]
        found.append(
            ChangedQuestion(
                task.about.name,
                row.subject,
                row.item_id,
                row.content_sha256,
                metric,
                float(a[place]),
                float(b[place]),
                row.gold,
                _answer(row, metric),
                _answer(other, metric),
            )
        )
    return found


def _answer(row: Answer, metric: str) -> str:
    """What was answered, in the form of `Answer.gold`: the likeliest choice, or the text that was extracted."""
    if row.log_probs is not None:
        return json.dumps(max(range(len(row.log_probs)), key=row.log_probs.__getitem__))
    return row.extracted.get(metric, row.generated or "")
