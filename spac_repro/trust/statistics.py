"""How far fresh runs may be from an expected row, and the smallest deviation that the check can detect.

A *measured* row is a mean x̄ over K seeds with standard deviation s. k fresh runs have mean f̄ and standard deviation s_f. Three
things must hold, and the row's level is divided among them: all of it goes to the mean if k = 1, and 0.6, 0.2 and 0.2 of it if not.

    mean    |f̄ − x̄| ≤ t(K + k − 2, 1 − α/2) · s_p · √(1/k + 1/K),  s_p² = ((K − 1) s² + (k − 1) s_f²)/(K + k − 2)
    runs    |f_i − x̄| ≤ c · s · √(1 + 1/K) for every run i
    spread  s_f ≤ d · s

The first is the two-sample t test, and for k = 1 the t prediction interval. The other two find what a mean hides: runs that are far
off in opposite directions. c and d are quantiles for scores that are as skewed as an exponential distribution (`run_quantiles.py`).
Where a row states the skewness of its scores, all three quantiles are at least those of such scores.
docs/decisions/14-levels.md says at which distributions the level holds, and by how much it fails at others.

Both sides are asked the same questions, so the harness's standard error does not enter. A *published* row is one run (K = 1) and
has no spread of its own: its spread is borrowed, with its degrees of freedom, or its tolerance is argued, and then every run must
keep it.

The smallest detectable deviation is the true deviation of the mean that the check finds with probability 0.8. With σ estimated, the
test statistic follows a noncentral t distribution. Its noncentrality is solved for, and σ in
deviation = noncentrality · σ · √(1/k + 1/K) is taken to be s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from spac_repro.trust.expected import ExpectedRow
from spac_repro.trust.run_quantiles import SKEWNESS, furthest_run_quantile, mean_quantile, spread_quantile

POWER = 0.8
ROUNDING = 1e-9  # relative difference that two machines may have, for rows without any spread
SMALL_SKEWNESS = 0.1  # below which scores count as normal
MEAN_SHARE, RUNS_SHARE, SPREAD_SHARE = 0.6, 0.2, 0.2  # of a row's level, where there are several runs


@dataclass(frozen=True)
class Limits:
    """What fresh runs must keep to agree with a row, in the metric's unit."""

    mean: float  # largest difference between their mean and the row's value
    run: float | None = None  # largest difference between one of several runs and the row's value
    spread: float | None = None  # largest standard deviation of several runs; None if the row has no spread of its own


class _Spread(NamedTuple):
    """The spread that a row is judged by."""

    sd: float  # of one run
    df: int  # degrees of freedom of sd
    seeds: int  # runs that the row's value is the mean of; with humps, the fewest that one of them is the mean of


def _spread(row: ExpectedRow) -> _Spread | None:
    """The spread of a row; None if the tolerance is argued."""
    if row.borrowed is not None:
        return _Spread(row.borrowed.sd, row.borrowed.degrees_of_freedom, 1)
    if row.sd is not None and row.seeds is not None:
        fewest = min((hump.runs for hump in row.humps.others), default=row.seeds) if row.humps else row.seeds
        return _Spread(row.sd, row.seeds - 1, min(row.seeds, fewest))
    return None


def limits(row: ExpectedRow, fresh: Sequence[float], alpha: float) -> Limits:
    """What fresh runs must keep to agree with a row.

    Args:
        row: the expected row.
        fresh: one value a run.
        alpha: level of the row, for mean, runs and spread together.
    """
    runs, spread = len(fresh), _spread(row)
    if runs == 1:
        return Limits(tolerance(row, fresh, alpha))
    mean = tolerance(row, fresh, MEAN_SHARE * alpha)
    if spread is None:
        return Limits(mean, run=mean)
    sd, df, seeds = spread
    skewness = max(SKEWNESS, row.skewness.value if row.skewness else 0.0)
    run = furthest_run_quantile(df, seeds, runs, RUNS_SHARE * alpha, skewness) * sd * math.sqrt(1 + 1 / seeds)
    widest = spread_quantile(df, seeds, runs, SPREAD_SHARE * alpha, skewness) * sd
    return Limits(mean, max(run, _rounding(row)) + _shift(row), max(widest, _rounding(row)))


def tolerance(row: ExpectedRow, fresh: Sequence[float], alpha: float) -> float:
    """The largest difference between the mean of fresh runs and the row's value that agrees, in the metric's unit.

    Args:
        row: the expected row.
        fresh: one value a run.
        alpha: level of the test of the mean.
    """
    if row.tolerance is not None:
        return row.tolerance.value + _shift(row)
    spread = _spread(row)
    assert spread is not None
    sd, df, seeds = spread
    runs = len(fresh)
    pooled = math.sqrt((df * sd**2 + (runs - 1) * standard_deviation(fresh) ** 2) / (df + runs - 1))
    quantile = t_quantile(df + runs - 1, alpha)
    if row.skewness is not None and row.skewness.value >= SMALL_SKEWNESS:
        quantile = max(quantile, mean_quantile(df, seeds, runs, alpha, row.skewness.value))
    return max(quantile * pooled * math.sqrt(1 / runs + 1 / seeds), _rounding(row)) + _shift(row)


def smallest_detectable(row: ExpectedRow, runs: int, alpha: float) -> float | None:
    """The true deviation that the check of the mean finds with probability 0.8, in the metric's unit; None if it is argued.

    Args:
        row: the expected row.
        runs: number of fresh runs, k.
        alpha: level of the row.
    """
    spread = _spread(row)
    if spread is None:
        return None
    sd, df, seeds = spread
    scale = sd * math.sqrt(1 / runs + 1 / seeds)
    level = alpha if runs == 1 else MEAN_SHARE * alpha
    # The second term matters only if the rounding is wider than the interval; the deviation must then exceed the rounding.
    furthest = max(noncentrality(df + runs - 1, level) * scale, _rounding(row) + normal_quantile(POWER) * scale)
    return furthest + _shift(row)


def standard_deviation(values: Sequence[float]) -> float:
    """The standard deviation over runs (n − 1), in the metric's unit: 0 for one run, NaN if a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))


def _shift(row: ExpectedRow) -> float:
    return row.harness_shift.value if row.harness_shift else 0.0


def _rounding(row: ExpectedRow) -> float:
    assert row.value is not None
    return row.rounding if row.rounding is not None else ROUNDING * max(1.0, abs(row.value))


@lru_cache
def t_quantile(df: float, alpha: float) -> float:
    """The quantile that Student's t is beyond, on either side, with probability alpha."""
    from scipy.special import stdtrit  # the same function in scipy.stats takes a second more to import

    return float(stdtrit(df, 1 - alpha / 2))


@lru_cache
def normal_quantile(probability: float) -> float:
    """The quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))


@lru_cache
def noncentrality(df: float, alpha: float) -> float:
    """The noncentrality at which a two-sided t test of level alpha rejects with probability POWER.

    A noncentral t variable is (Z + noncentrality) / S, with S² a chi-square variable over its degrees of freedom. The probability
    is averaged over a fine grid of S, because scipy's own distribution returns NaN far in its tails.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr

    critical = t_quantile(df, alpha)
    chi_squares = 2 * gammaincinv(df / 2, (np.arange(4000) + 0.5) / 4000)
    bounds = critical * np.sqrt(chi_squares / df)

    def missing_power(noncentrality: float) -> float:
        return float(np.mean(ndtr(noncentrality - bounds) + ndtr(-noncentrality - bounds))) - POWER

    return float(brentq(missing_power, 0.0, 10 + 10 * critical, xtol=1e-9))
