"""How much scores differ, in the unit of what two seeds differ by.

Two runs that differ in nothing but the seed differ by s·√2 as a rule, s being the standard deviation over seeds, and by more than
t(df, 1 − α/2m)·s·√2 in one of m scores with probability α or less. A spread is never taken to be less than one item: a run of few
questions cannot tell less apart.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spac_repro.runs.folder import RunFolder, find_complete_runs
from spac_repro.runs.results import Score

ALPHA = 0.01
FEWEST = 3  # runs of the same settings, for a spread

Place = tuple[int, str, str]  # of a score in a run: iterate, task, metric
Spread = dict[Place, tuple[float, int]]  # standard deviation over seeds, and its degrees of freedom


@dataclass(frozen=True)
class Change:
    """One score of both runs. `spread` is the standard deviation over seeds, `limit` what two seeds rarely differ by."""

    iteration: int
    task: str
    metric: str
    a: float
    b: float
    spread: float | None
    limit: float | None
    stderr: float | None
    items: tuple[int, int]  # that each value is a mean over; 0 where that is not known

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def beyond(self) -> bool | None:
        """Whether it is more than noise; None where no spread is known."""
        if self.difference == 0:
            return False
        return None if self.limit is None or self.items[0] != self.items[1] else not abs(self.difference) <= self.limit

    @property
    def words(self) -> str:
        if self.difference == 0:
            return "equal"
        if self.items[0] != self.items[1]:
            return f"other questions: {self.items[0]} and {self.items[1]}"
        if self.spread is None or self.limit is None:
            return "differs; how much seeds differ is not known"
        ratio = abs(self.difference) / (self.spread * math.sqrt(2)) if self.spread else math.inf
        told = "beyond noise" if self.beyond else "within noise" if ratio <= 2 else "not told from noise by so few seeds"
        return f"{told}: {ratio:.1f} × what two seeds usually differ by"

    def __str__(self) -> str:
        return f"{self.task} {self.metric} of iterate {self.iteration}, {self.a:.4f} → {self.b:.4f}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference, "beyond_noise": self.beyond, "words": self.words}


def spread_of(runs: Iterable[RunFolder]) -> tuple[Spread, int]:
    """The spread over seeds of each score, and how many runs it was taken from.

    It is pooled over the groups of runs that differ in nothing but the seed, and that one of the runs given belongs to; the
    finished runs beside those count, too.
    """
    runs = [RunFolder(run.path.resolve()) for run in runs]
    wanted = {run.manifest.settings_sha256 for run in runs}
    beside = {parent: find_complete_runs(parent) for parent in {run.path.parent for run in runs}}
    groups: dict[str | None, dict[int, RunFolder]] = {}
    for each in dict.fromkeys(each for run in runs for each in (run, *beside[run.path.parent])):
        if each.manifest.settings_sha256 in wanted:
            groups.setdefault(each.manifest.settings_sha256, {}).setdefault(each.manifest.seed, each)
    used = [list(group.values()) for group in groups.values() if len(group) >= FEWEST]
    return _pooled(used), sum(map(len, used))


def _pooled(groups: Iterable[Sequence[RunFolder]]) -> Spread:
    """The standard deviation of each score within the groups."""
    squares: dict[Place, float] = {}
    freedoms: dict[Place, int] = {}
    for group in groups:
        values: dict[Place, list[float]] = {}
        for run in group:
            for iteration, score in run.scores():
                values.setdefault((iteration, score.task, score.metric), []).append(score.value)
        for place, its_values in values.items():
            if len(its_values) >= FEWEST:
                freedom = len(its_values) - 1
                squares[place] = squares.get(place, 0) + statistics.variance(its_values) * freedom
                freedoms[place] = freedoms.get(place, 0) + freedom
    return {place: (math.sqrt(total / freedoms[place]), freedoms[place]) for place, total in squares.items()}


def changes(a: Sequence[tuple[int, Score]], b: Sequence[tuple[int, Score]], spread: Spread) -> Iterator[Change]:
    """Every score that both runs have."""
    others = {(iteration, score.task, score.metric): score for iteration, score in b}
    shared = {(iteration, score.task, score.metric): score for iteration, score in a}
    shared = {place: score for place, score in shared.items() if place in others}
    for place, score in shared.items():
        other = others[place]
        sd, limit = noise(spread.get(place), score.n, len(shared))
        yield Change(*place, score.value, other.value, sd, limit, score.stderr, (score.n, other.n))


def noise(spread: tuple[float, int] | None, items: int, scores: int) -> tuple[float | None, float | None]:
    """Standard deviation over seeds, at least one item's worth, and what two seeds differ by with probability ALPHA / scores."""
    from scipy.special import stdtrit

    if spread is None:
        return None, None
    sd, freedom = max(spread[0], 1 / items if items else 0.0), spread[1]
    return sd, float(stdtrit(freedom, 1 - ALPHA / scores / 2)) * sd * math.sqrt(2)
