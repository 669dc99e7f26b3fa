"""The tolerance of an expected row, and the smallest deviation that the check can detect.

A *measured* row is a mean over K seeds with standard deviation s. The mean of k fresh runs is compared with it by a t prediction
interval, which honest runs leave with probability α whatever their true spread is:

    |fresh − expected| ≤ t(K − 1, 1 − α/2) · s · √(1/k + 1/K)

Both sides are asked the same questions, so the harness's standard error does not enter. A *published* row is one run (K = 1) and
has no spread of its own: its spread is borrowed, with its degrees of freedom, or its tolerance is argued.

The smallest detectable deviation is the true deviation that the check finds with probability 0.8. With s estimated from K runs the
test statistic follows a noncentral t distribution with K − 1 degrees of freedom. Its noncentrality is solved for, and σ in
deviation = noncentrality · σ · √(1/k + 1/K) is taken to be s.
"""

import math
from functools import lru_cache

from spac_repro.trust.expected import ExpectedRow

POWER = 0.8
ROUNDING = 1e-9  # relative difference that two machines may have, for rows without any spread


def _spread(row: ExpectedRow) -> tuple[float, int, float] | None:
    """Standard deviation of one run, its degrees of freedom, and 1/K; None if the tolerance is argued."""
    if row.borrowed is not None:
        return row.borrowed.sd, row.borrowed.degrees_of_freedom, 1.0
    if row.sd is not None and row.seeds is not None:
        return row.sd, row.seeds - 1, 1 / row.seeds
    return None


def tolerance(row: ExpectedRow, runs: int, alpha: float) -> float:
    """The largest difference between the mean of fresh runs and the row's value that agrees, in the metric's unit.

    Args:
        row: the expected row.
        runs: number of fresh runs, k.
        alpha: level of the test.
    """
    shift = row.harness_shift.value if row.harness_shift else 0.0
    if row.tolerance is not None:
        return row.tolerance.value + shift
    spread = _spread(row)
    assert spread is not None
    sd, df, inverse_seeds = spread
    return max(_t_quantile(df, alpha) * sd * math.sqrt(1 / runs + inverse_seeds), _rounding(row)) + shift


def smallest_detectable(row: ExpectedRow, runs: int, alpha: float) -> float | None:
    """The true deviation that the check finds with probability 0.8, in the metric's unit; None if the tolerance is argued.

    Args:
        row: the expected row.
        runs: number of fresh runs, k.
        alpha: level of the test.
    """
    spread = _spread(row)
    if spread is None:
        return None
    sd, df, inverse_seeds = spread
    scale = sd * math.sqrt(1 / runs + inverse_seeds)
    shift = row.harness_shift.value if row.harness_shift else 0.0
    # The second term matters only if the rounding is wider than the interval; the deviation must then exceed the rounding.
    return max(_noncentrality(df, alpha) * scale, _rounding(row) + _normal_quantile(POWER) * scale) + shift


def _rounding(row: ExpectedRow) -> float:
    assert row.value is not None
    return row.rounding if row.rounding is not None else ROUNDING * max(1.0, abs(row.value))


@lru_cache
def _t_quantile(df: int, alpha: float) -> float:
    from scipy.special import stdtrit  # the same function in scipy.stats takes a second more to import

    return float(stdtrit(df, 1 - alpha / 2))


@lru_cache
def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


@lru_cache
def _noncentrality(df: int, alpha: float) -> float:
    """The noncentrality at which a two-sided t test of level alpha rejects with probability POWER.

    A noncentral t variable is (Z + noncentrality) / S, with S² a chi-square variable over its degrees of freedom. The probability
    is averaged over a fine grid of S, because scipy's own distribution returns NaN far in its tails.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr

    critical = _t_quantile(df, alpha)
    chi_squares = 2 * gammaincinv(df / 2, (np.arange(4000) + 0.5) / 4000)
    bounds = critical * np.sqrt(chi_squares / df)

    def missing_power(noncentrality: float) -> float:
        return float(np.mean(ndtr(noncentrality - bounds) + ndtr(-noncentrality - bounds))) - POWER

    return float(brentq(missing_power, 0.0, 10 + 10 * critical, xtol=1e-9))
