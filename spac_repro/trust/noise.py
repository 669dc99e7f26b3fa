"""Score differences between two runs, in units of the spread over seeds.

Two runs that differ only in the seed typically differ by s·√2, with s the standard deviation over seeds. If scores are normal over
seeds, one of m scores differs by more than t(df, 1 − α/2m)·s·√2 with probability α or less (Student's t: s comes from other runs
than the two; Bonferroni). The spread is taken to be at least one item (1/n), since a run with few questions cannot resolve less.
docs/decisions/14-levels.md has the reasons.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from spac_repro.errors import UserError
from spac_repro.protocols import CURRENT
from spac_repro.runs import file_hashes, files
from spac_repro.runs.folder import RunFolder, find_complete_runs
from spac_repro.runs.results import Score

ALPHA = 0.01
MIN_RUNS = 3  # of one setting, without the compared ones, to estimate a spread from

ScorePlace = tuple[int, str, str]  # iteration, task, metric
Scores = list[tuple[int, Score]]  # of a run: iteration and score
Spread = dict[ScorePlace, tuple[float, int]]  # standard deviation over seeds, and its degrees of freedom


@dataclass(frozen=True)
class ScoreDifference:
    """A score that both runs have."""

    iteration: int
    task: str
    metric: str
    a: float
    b: float
    spread: float | None  # standard deviation over seeds
    limit: float | None  # the largest difference that two seeds explain
    stderr: float | None
    items: tuple[int, int]  # that each value is a mean over; 0 if not known
    protocols: tuple[str, str] = (CURRENT, CURRENT)  # under which a leaderboard score was measured

    @property
    def difference(self) -> float:
        """B − A."""
        return self.b - self.a

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the difference is larger than `limit`; None if the spread is not known or the questions differ."""
        if self.difference == 0:
            return False
        other_measurement = self.items[0] != self.items[1] or self.protocols[0] != self.protocols[1]
        return None if self.limit is None or other_measurement else not abs(self.difference) <= self.limit

    @property
    def in_words(self) -> str:
        """The difference as a multiple of s·√2, and whether that is noise."""
        if self.difference == 0:
            return "equal"
        if self.protocols[0] != self.protocols[1]:
            return f"other protocols: {self.protocols[0]} and {self.protocols[1]}"
        if self.items[0] != self.items[1]:
            return f"other questions: {self.items[0]} and {self.items[1]}"
        if self.spread is None or self.limit is None:
            return "differs; how much seeds differ is not known"
        ratio = abs(self.difference) / (self.spread * math.sqrt(2)) if self.spread else math.inf
        not_beyond = "within noise" if ratio <= 2 else "too few seeds to tell it from noise"
        judgement = "beyond noise" if self.beyond_noise else not_beyond
        return f"{judgement}: {ratio:.1f} × what two seeds usually differ by"

    def __str__(self) -> str:
        return f"{self.task} {self.metric} of iterate {self.iteration}, {self.a:.4f} → {self.b:.4f}"

    def as_json(self) -> dict[str, Any]:
        """The change as `compare --json` prints it."""
        return {**asdict(self), "difference": self.difference, "beyond_noise": self.beyond_noise, "words": self.in_words}


class SeedSpread(NamedTuple):
    """The spread of each score over seeds, and the runs behind it."""

    spread: Spread
    runs: int  # that it was estimated from
    left_out: tuple[str, ...]  # why damaged runs are not among them, one line for each


def seed_spread(a: RunFolder, b: RunFolder, named: Iterable[RunFolder] = ()) -> SeedSpread:
    """Estimate the spread of each score over seeds, from finished runs that differ from A or B in the seed alone.

    A and B themselves are left out, and so is every other run of their settings and seed: a run that is far off would widen the
    spread that it is judged by. A damaged run beside A or B is left out as well. The spread is pooled over the groups of at least
    `MIN_RUNS` runs.

    Args:
        a: one of the runs that are compared. The runs beside it are candidates.
        b: the other one, likewise.
        named: further candidates.

    Raises:
        UserError: a named run has other settings or inputs than A and B, or is damaged; or A or B is.
    """
    compared = [RunFolder(run.path.resolve()) for run in (a, b)]
    settings = {_setting(run) for run in compared} - {None}
    suspects = {(_setting(run), run.manifest.seed) for run in compared}
    groups: dict[str, dict[int, Scores]] = {}
    damaged: list[UserError] = []
    for run in named:
        if run.path.resolve() not in [each.path for each in compared] and _setting(run) not in settings:
            raise UserError(
                f"{run}: has other settings or inputs than A and B, so it says nothing about their spread over seeds; "
                "name runs that differ from A or B in the seed alone"
            )
    beside = (find_complete_runs(parent, damaged) for parent in dict.fromkeys(run.path.parent for run in compared))
    neighbours = list(itertools.chain.from_iterable(beside))
    for run in (*named, *neighbours):
        setting, seed = _setting(run), run.manifest.seed
        if setting is not None and setting in settings and (setting, seed) not in suspects:
            try:
                file_hashes.check(run)
                groups.setdefault(setting, {}).setdefault(seed, run.scores())
            except UserError as error:
                if run not in neighbours:
                    raise
                damaged.append(error)
    used = [list(group.values()) for group in groups.values() if len(group) >= MIN_RUNS]
    return SeedSpread(_pooled(used), sum(map(len, used)), tuple(map(str, damaged)))


def _setting(run: RunFolder) -> str | None:
    """A hash of what two seeds share: settings and inputs. None if the manifest has no digest of the settings."""
    manifest = run.manifest
    if manifest.settings_sha256 is None:
        return None
    # A key that an older version did not write is absent there, and may be null here.
    inputs = {name: value for name, value in manifest.inputs.items() if value is not None}
    return files.sha256_json([manifest.settings_sha256, inputs])


def _pooled(groups: Iterable[Sequence[Scores]]) -> Spread:
    """The standard deviation of each score within the groups, weighted by degrees of freedom."""
    squares: dict[ScorePlace, float] = {}
    dfs: dict[ScorePlace, int] = {}
    for group in groups:
        values: dict[ScorePlace, list[float]] = {}
        for scores in group:
            for iteration, score in scores:
                values.setdefault((iteration, score.task, score.metric), []).append(score.value)
        for place, of_seeds in values.items():
            if len(of_seeds) >= MIN_RUNS:
                df = len(of_seeds) - 1
                squares[place] = squares.get(place, 0) + statistics.variance(of_seeds) * df
                dfs[place] = dfs.get(place, 0) + df
    return {place: (math.sqrt(total / dfs[place]), dfs[place]) for place, total in squares.items()}


def score_differences(a: Sequence[tuple[int, Score]], b: Sequence[tuple[int, Score]], spread: Spread) -> Iterator[ScoreDifference]:
    """Every score that both runs have, with the noise that the spread implies.

    Args:
        a: iteration and score, for every score of run A.
        b: the same of run B.
        spread: the spread over seeds of each score, as far as it is known.
    """
    scores_b = {(iteration, score.task, score.metric): score for iteration, score in b}
    scores_a = {(iteration, score.task, score.metric): score for iteration, score in a}
    shared = {place: score for place, score in scores_a.items() if place in scores_b}
    for place, score in shared.items():
        other = scores_b[place]
        sd, limit = noise_limit(spread.get(place), score.n, len(shared))
        yield ScoreDifference(*place, score.value, other.value, sd, limit, score.stderr, (score.n, other.n))


def noise_limit(spread: tuple[float, int] | None, items: int, scores: int) -> tuple[float | None, float | None]:
    """The standard deviation over seeds, at least 1/items, and the largest difference that two seeds explain.

    Args:
        spread: standard deviation and degrees of freedom; None if not known.
        items: items that the score is a mean over.
        scores: number of scores that are compared, for the Bonferroni correction of `ALPHA`.
    """
    if spread is None:
        return None, None
    sd, df = max(spread[0], 1 / items if items else 0.0), spread[1]
    return sd, limit_in_spreads(df, scores) * sd


def limit_in_spreads(df: int, scores: int) -> float:
    """The largest difference that two seeds explain in any of `scores` scores, in standard deviations over seeds."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - ALPHA / scores / 2)) * math.sqrt(2)


def seeds_needed(scores: int) -> str:
    """Say how large a difference must be to be called beyond noise, by the number of other seeds."""
    limits = ", ".join(f"with {runs} from {limit_in_spreads(runs - 1, scores):.3g} ×" for runs in (MIN_RUNS, 5, 10, 20))
    return f"with fewer than {MIN_RUNS} other seeds nothing can be called beyond noise; {limits} the spread over seeds"
