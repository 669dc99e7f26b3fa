"""Two models, or two groups of runs, question by question: what differs, whether that is more than noise, and what flipped."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spac_repro import protocols
from spac_repro.errors import UserError
from spac_repro.runs.answers import Answer, Metric
from spac_repro.trust.paired_scores import ALPHA, PairedScore, paired_scores
from spac_repro.trust.question_pairs import Evaluation, PairedTask, averaged, pair

HELDOUT = "heldout"


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
        flipped: Whether one of A and B has it right and the other wrong; for several runs, most of them. A value that is no share
            can change without a flip.
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
    flipped: bool
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
        changed: The questions on which A and B differ: first those that flipped; of a task, those that differ most come first.
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
        primary = sum(score.primary for score in self.scores)
        level = f"Holm, {ALPHA:.0%} over all of them"
        if not self.significant:
            return f"none of {primary} primary scores differs significantly ({level})"
        names = ", ".join(f"{score.task} {score.metric} {score.difference:+.4f}" for score in self.significant)
        return f"of {primary} primary scores, {len(self.significant)} differ significantly ({level}): {names}"

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
        seeds = "runs of the same seed are paired" if self.matched else "runs are not paired"
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
        UserError: an evaluation is there twice on one side, different protocols without `across_protocols`, or no question in
            common.
    """
    every = (*a, *b)
    _check_distinct(a)
    _check_distinct(b)
    said = _say_protocols(a, b, across_protocols)
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
        said,
        matched,
        by_subject,
        tuple(paired_scores(tasks, averaged(tasks, every), matched=matched, by_subject=by_subject)),
        tuple(sorted((changed for task in tasks for changed in _changed(task)), key=lambda each: not each.flipped)),
        tuple(left_out),
    )


def _check_distinct(side: Sequence[Evaluation]) -> None:
    """Check that no evaluation is there twice: a run that counts as two would make the noise of seeds too small."""
    names: dict[object, str] = {}
    for each in side:
        weights = each.answers.about.weights_sha256
        model = each.name if each.seed is None or not weights else (each.seed, weights)
        if model in names:
            raise UserError(f"{each.name}: is the same run as {names[model]}, and a run counts once; name it once on its side")
        names[model] = each.name


def _say_protocols(a: Sequence[Evaluation], b: Sequence[Evaluation], across_protocols: bool) -> str:
    of_a, of_b = (sorted({_protocol_label(each.protocol) for each in side}) for side in (a, b))
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


def _protocol_label(name: str | None) -> str:
    if name is None:
        return "not recorded"
    return protocols.get(name).label if name in protocols.names() else name


def _same_seeds(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> bool:
    """Whether both sides have the same several seeds, each once."""
    seeds_a, seeds_b = ({each.seed for each in side} for side in (a, b))
    return len(a) > 1 and len(a) == len(b) == len(seeds_a) and seeds_a == seeds_b and None not in seeds_a


def _changed(task: PairedTask) -> list[ChangedQuestion]:
    """The questions of a task on which the primary metric differs, by the size of the difference and then in their order."""
    metric = task.primary.name
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
                _flipped(*([_right(run[place], metric) for run in side] for side in (task.a, task.b))),
                row.gold,
                _answer(row, task.primary),
                _answer(other, task.primary),
            )
        )
    return found


def _right(row: Answer, metric: str) -> bool | None:
    """Whether a question is answered right; None if its value is neither 0 nor 1."""
    value = row.metrics[metric]
    return row.correct if row.correct is not None else bool(value) if value in (0.0, 1.0) else None


def _flipped(a: Sequence[bool | None], b: Sequence[bool | None]) -> bool:
    """Whether most runs of one side answer a question right, and most of the other do not."""
    if None in (*a, *b):
        return False
    most_a, most_b = (2 * sum(map(bool, side)) > len(side) for side in (a, b))
    return most_a != most_b


def _answer(row: Answer, metric: Metric) -> str:
    """What was answered, in the form of `Answer.gold`: the likeliest choice, or the text that was extracted.

    The responses of a held-out preference are no choices: the one with the larger log-ratio is preferred, chosen (0) or rejected
    (1), and none in a tie.
    """
    if row.task == HELDOUT:
        return {True: "0", False: "1", None: ""}[row.correct]
    if row.log_probs is not None:
        scaled = row.choice_lengths if metric.rule == "acc_norm" and row.choice_lengths is not None else [1] * len(row.log_probs)
        normed = [value / length if length else -math.inf for value, length in zip(row.log_probs, scaled, strict=True)]
        return json.dumps(normed.index(max(normed)))
    return row.extracted.get(metric.name, row.generated or "")
