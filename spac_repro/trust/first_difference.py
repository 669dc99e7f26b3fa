"""Where two runs first part: the first difference in the order in which a run is computed, not the list of all that follow from it.

    data rows → per iteration: self-play → reference log-probabilities → optimiser steps → weights → scores

Scores feed nothing, so they are followed apart: a run may part in a score and go on with equal weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import IterationFolder
from spac_repro.runs.metrics import StepMetrics
from spac_repro.runs.results import Score
from spac_repro.trust import rows
from spac_repro.trust.parting import Parting, same, shown
from spac_repro.trust.weights import first_tensor

RESPONSES = ("selfplay", "chosen", "rejected")


@dataclass(frozen=True)
class Walk:
    """What was found on the way through two runs."""

    training: Parting | None  # the first difference of what later stages are computed from
    scores: Parting | None  # the first difference of a score, where it is not explained by the one above
    equal: str  # how far both were seen to be equal, in words
    unfinished: tuple[str, ...]  # what one run has and the other lacks
    read: int  # bytes of weights that were read


def walk(a: RunFolder, b: RunFolder) -> Walk:
    """Follow two runs in the order of computation to where they first part.

    Raises:
        UserError: a file of either is damaged.
    """
    search = _Search(a, b)
    training = next((parting for parting in search.training() if parting), None)
    scores = next((parting for parting in search.scores() if parting), None)
    # The data are first used in iteration 1; a score of the start that differs has a cause of its own.
    if training and scores and (1 if training.iteration is None else training.iteration) <= (scores.iteration or 0):
        scores = None  # what comes after the parting differs because of it
    return Walk(training, scores, search.equal or "nothing", tuple(dict.fromkeys(search.unfinished)), search.read)


class _Search:
    """One pass over two run folders."""

    def __init__(self, a: RunFolder, b: RunFolder) -> None:
        self.folders = (a, b)
        self.steps = [folder.metrics() for folder in self.folders]
        self.last = max((each.number for folder in self.folders for each in folder.iterations()), default=0)
        self.equal = ""
        self.unfinished: list[str] = []
        self.read = 0

    def training(self) -> Iterator[Parting | None]:
        yield self._rows(1, rows.PREFERENCE, "data")
        for t in range(self.last + 1):
            if t > 0:
                yield self._rows(t, ("selfplay",), "self-play")
                yield self._rows(t, tuple(f"{name}_reference_logprob" for name in RESPONSES), "reference")
            yield self._steps(t)
            yield self._weights(t)

    def scores(self) -> Iterator[Parting | None]:
        for t in range(self.last + 1):
            if both := self._both(t, "scores", lambda its: its.scores_file):
                yield _first_score(t, *(its.scores() for its in both))

    def _both(self, t: int, what: str, file: Callable[[IterationFolder], Path]) -> list[IterationFolder] | None:
        """Iteration t of both runs; None where one lacks a file of it, which is said if the other has it."""
        both = [folder.iteration(t) for folder in self.folders]
        there = [file(its).exists() for its in both]
        if any(there) and not all(there):
            self.unfinished.append(f"{'AB'[there.index(False)]} has no {what} of iteration {t}")
        return both if all(there) else None

    def _rows(self, t: int, columns: Sequence[str], stage: str) -> Parting | None:
        """The first row of iteration t's dataset in which one of the columns differs."""
        both = self._both(t, "dataset", lambda its: its.dataset_file)
        if not both:
            return None
        a, b = (its.read_dataset() for its in both)
        if absent := rows.first_absent(a, b, columns, stage, None if stage == "data" else t):
            return absent
        if stage == "data":
            return rows.first_preference(a, b)
        columns = [column for column in columns if column in a]
        if parting := rows.first_cell(a, b, columns, stage, t):
            return parting
        if columns:
            self.equal = f"{stage} of iteration {t}"
        return None

    def _steps(self, t: int) -> Parting | None:
        """The first optimiser step of iteration t in which a metric differs, and the first such metric of it."""
        a, b = ({step.step: step for step in steps if step.iteration == t} for steps in self.steps)
        for number in sorted(a.keys() & b.keys()):
            if parting := _first_metric(a[number], b[number]):
                return parting
            self.equal = f"step {number} of iteration {t}"
        counts = [max(each, default=0) for each in (a, b)]
        if counts[0] == counts[1]:
            return None
        shorter = counts.index(min(counts))
        if self.folders[shorter].iteration(t).has_policy:
            return Parting("training", t, f"step {min(counts) + 1}", "the number of steps", *map(str, counts))
        self.unfinished.append(f"{'AB'[shorter]} has no step {min(counts) + 1} of iteration {t}")
        return None

    def _weights(self, t: int) -> Parting | None:
        """The first tensor of iterate t that differs. Weights whose hashes agree are not read; no tensor is read twice."""
        both = self._both(t, "weights", lambda its: its.policy)
        if not both:
            return None
        if all(its.fingerprint_file.exists() for its in both) and both[0].weights_sha256 == both[1].weights_sha256:
            self.equal = f"weights of iterate {t}"
            return None
        parting, read = first_tensor(*(its.policy for its in both), iteration=t)
        self.read += read
        if parting is None:
            self.equal = f"weights of iterate {t}"
        return parting


def _first_metric(a: StepMetrics, b: StepMetrics) -> Parting | None:
    for name in dict.fromkeys([*a.values, *b.values]):
        x, y = a.values.get(name), b.values.get(name)
        if not same(x, y):
            return Parting("training", a.iteration, f"step {a.step}", name, shown(x), shown(y))
    return None


def _first_score(t: int, a: Sequence[Score], b: Sequence[Score]) -> Parting | None:
    others = {(score.task, score.metric): score.value for score in b}
    for score in a:
        key = (score.task, score.metric)
        if key in others and not same(score.value, others[key]):
            return Parting("scores", t, "", " ".join(key), shown(score.value), shown(others[key]))
    return None
