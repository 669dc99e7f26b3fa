"""The first difference between two runs, in the order in which a run is computed. What follows from it is not listed.

    data rows → per iteration: self-play → reference log-probabilities → optimizer steps → weights → scores

Nothing is computed from scores, so they are searched separately: two runs may differ in a score and still have equal weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import IterationFolder
from spac_repro.runs.metrics import StepMetrics
from spac_repro.runs.results import Score
from spac_repro.trust import row_mismatch
from spac_repro.trust.mismatch import Mismatch, equal_or_both_nan, format_value
from spac_repro.trust.weight_mismatch import first_tensor_mismatch

RESPONSES = ("selfplay", "chosen", "rejected")


@dataclass(frozen=True)
class FirstDifference:
    """Where two runs first differ, and how far they are equal."""

    training: Mismatch | None  # the first mismatch in data, self-play, reference, training or weights
    scores: Mismatch | None  # the first mismatch of a score; None where the one above explains it
    equal_up_to: str  # the last stage that was seen to be equal, in words
    unfinished: tuple[str, ...]  # what only one of the runs has
    weight_bytes_read: int


def find_first_difference(a: RunFolder, b: RunFolder) -> FirstDifference:
    """Follow two runs in the order of computation to their first difference.

    Raises:
        UserError: a file of either run is damaged.
    """
    search = _Search(a, b)
    training = next((mismatch for mismatch in search.training() if mismatch), None)
    scores = next((mismatch for mismatch in search.scores() if mismatch), None)
    # Iteration 1 is the first to use the data, so a mismatch in the data does not explain a score of the start policy.
    if training and scores and (1 if training.iteration is None else training.iteration) <= (scores.iteration or 0):
        scores = None
    equal_up_to = search.equal_up_to or "nothing"
    return FirstDifference(training, scores, equal_up_to, tuple(dict.fromkeys(search.unfinished)), search.weight_bytes_read)


class _Search:
    """One pass over two run folders."""

    def __init__(self, a: RunFolder, b: RunFolder) -> None:
        self.folders = (a, b)
        self.steps = [folder.metrics() for folder in self.folders]
        self.last_iteration = max((each.number for folder in self.folders for each in folder.iterations()), default=0)
        self.equal_up_to = ""
        self.unfinished: list[str] = []
        self.weight_bytes_read = 0

    def training(self) -> Iterator[Mismatch | None]:
        """The result of every comparison, in the order of computation."""
        yield self._rows(1, row_mismatch.PREFERENCE, "data")
        for t in range(self.last_iteration + 1):
            if t > 0:
                yield self._rows(t, ("selfplay",), "self-play")
                yield self._rows(t, tuple(f"{name}_reference_logprob" for name in RESPONSES), "reference")
            yield self._steps(t)
            yield self._weights(t)

    def scores(self) -> Iterator[Mismatch | None]:
        """The result of comparing the scores of each iterate."""
        for t in range(self.last_iteration + 1):
            if both := self._both(t, "scores", lambda iteration: iteration.scores_file):
                yield _first_score_mismatch(t, *(iteration.scores() for iteration in both))

    def _both(self, t: int, what: str, file: Callable[[IterationFolder], Path]) -> list[IterationFolder] | None:
        """Iteration t of both runs; None unless both have the file. If only one has it, `unfinished` gets a line."""
        both = [folder.iteration(t) for folder in self.folders]
        exists = [file(iteration).exists() for iteration in both]
        if any(exists) and not all(exists):
            self.unfinished.append(f"{'AB'[exists.index(False)]} has no {what} of iteration {t}")
        return both if all(exists) else None

    def _rows(self, t: int, columns: Sequence[str], stage: str) -> Mismatch | None:
        """The first row of iteration t's dataset in which one of the columns differs."""
        both = self._both(t, "dataset", lambda iteration: iteration.dataset_file)
        if not both:
            return None
        a, b = (iteration.read_dataset() for iteration in both)
        if missing := row_mismatch.first_missing_column(a, b, columns, stage, None if stage == "data" else t):
            return missing
        if stage == "data":
            return row_mismatch.first_preference_mismatch(a, b)
        columns = [column for column in columns if column in a]
        if mismatch := row_mismatch.first_row_mismatch(a, b, columns, stage, t):
            return mismatch
        if columns:
            self.equal_up_to = f"{stage} of iteration {t}"
        return None

    def _steps(self, t: int) -> Mismatch | None:
        """The first optimizer step of iteration t in which a metric differs, and the first such metric."""
        a, b = ({step.step: step for step in steps if step.iteration == t} for steps in self.steps)
        for number in sorted(a.keys() & b.keys()):
            if mismatch := _first_metric_mismatch(a[number], b[number]):
                return mismatch
            self.equal_up_to = f"step {number} of iteration {t}"
        counts = [max(steps, default=0) for steps in (a, b)]
        if counts[0] == counts[1]:
            return None
        shorter = counts.index(min(counts))
        if self.folders[shorter].iteration(t).has_policy:
            return Mismatch("training", t, f"step {min(counts) + 1}", "the number of steps", *map(str, counts))
        self.unfinished.append(f"{'AB'[shorter]} has no step {min(counts) + 1} of iteration {t}")
        return None

    def _weights(self, t: int) -> Mismatch | None:
        """The first tensor of iterate t that differs. Weights with equal hashes are not read; no tensor is read twice."""
        both = self._both(t, "weights", lambda iteration: iteration.policy)
        if not both:
            return None
        hashed = all(iteration.fingerprint_file.exists() for iteration in both)
        if hashed and both[0].weights_sha256 == both[1].weights_sha256:
            self.equal_up_to = f"weights of iterate {t}"
            return None
        mismatch, read = first_tensor_mismatch(*(iteration.policy for iteration in both), iteration=t)
        self.weight_bytes_read += read
        if mismatch is None:
            self.equal_up_to = f"weights of iterate {t}"
        return mismatch


def _first_metric_mismatch(a: StepMetrics, b: StepMetrics) -> Mismatch | None:
    for name in dict.fromkeys([*a.values, *b.values]):
        x, y = a.values.get(name), b.values.get(name)
        if not equal_or_both_nan(x, y):
            return Mismatch("training", a.iteration, f"step {a.step}", name, format_value(x), format_value(y))
    return None


def _first_score_mismatch(t: int, a: Sequence[Score], b: Sequence[Score]) -> Mismatch | None:
    values_of_b = {(score.task, score.metric): score.value for score in b}
    for score in a:
        key = (score.task, score.metric)
        if key in values_of_b and not equal_or_both_nan(score.value, values_of_b[key]):
            return Mismatch("scores", t, "", " ".join(key), format_value(score.value), format_value(values_of_b[key]))
    return None
