"""How far fresh numbers may be from an expected row, and how small a deviation that would find.

A row that was *measured* on K seeds with standard deviation s is compared with the mean of k fresh runs by a t prediction interval

    |fresh - expected| <= t(K - 1, 1 - a/2) * s * sqrt(1/k + 1/K)

which runs of the same program leave with probability a, whatever their true spread is. The same questions are asked on both
sides, so the harness's standard error does not enter. A *published* row stands for one run (K = 1) and has no spread of its
own: it is borrowed, with its degrees of freedom, or a tolerance is argued.

The smallest detectable deviation of a row is the true deviation that the check would find in 80 % of repetitions. With s
estimated from K runs the test statistic then follows a noncentral t distribution with K - 1 degrees of freedom; its
noncentrality is solved for, and sigma in deviation = noncentrality * sigma * sqrt(1/k + 1/K) is taken to be s.
"""

import math
from functools import lru_cache

from spac_repro.trust.expected import Row

POWER = 0.8
ROUNDING = 1e-9  # relative; what two machines may differ by where a row has no spread at all


def _spread(row: Row) -> tuple[float, int, float] | None:
    """Standard deviation of one run, its degrees of freedom, and 1/K; None where the tolerance is argued."""
    if row.borrowed is not None:
        return row.borrowed.sd, row.borrowed.degrees_of_freedom, 1.0
    if row.sd is not None and row.seeds is not None:
        return row.sd, row.seeds - 1, 1 / row.seeds
    return None


def tolerance(row: Row, runs: int, alpha: float) -> float:
    """How far the mean of `runs` fresh runs may be from the row's value at level alpha, in the metric's unit."""
    shift = row.harness_shift.value if row.harness_shift else 0.0
    if row.tolerance is not None:
        return row.tolerance.value + shift
    spread = _spread(row)
    assert spread is not None
    sd, freedom, share = spread
    return max(_quantile(freedom, alpha) * sd * math.sqrt(1 / runs + share), _rounding(row)) + shift


def smallest_detectable(row: Row, runs: int, alpha: float) -> float | None:
    """The true deviation that is found with probability 0.8; None where it is unknown, the tolerance having been argued."""
    spread = _spread(row)
    if spread is None:
        return None
    sd, freedom, share = spread
    scale = sd * math.sqrt(1 / runs + share)
    shift = row.harness_shift.value if row.harness_shift else 0.0
    # The second form matters only where the rounding is wider than the interval: a normal deviate must then pass it.
    return max(_noncentrality(freedom, alpha) * scale, _rounding(row) + _normal_quantile(POWER) * scale) + shift


def _rounding(row: Row) -> float:
    assert row.value is not None
    return row.rounding if row.rounding is not None else ROUNDING * max(1.0, abs(row.value))


@lru_cache
def _quantile(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit  # scipy.stats is the same function and a second more to import

    return float(stdtrit(freedom, 1 - alpha / 2))


@lru_cache
def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


@lru_cache
def _noncentrality(freedom: int, alpha: float) -> float:
    """The noncentrality at which a two-sided t test of level alpha rejects with probability POWER.

    A noncentral t variable is (Z + noncentrality) / S with S² a chi-square over its degrees of freedom; the probability is
    averaged over a fine grid of S, because scipy's own distribution gives NaN far in its tails.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr

    critical = _quantile(freedom, alpha)
    chi_squares = 2 * gammaincinv(freedom / 2, (np.arange(4000) + 0.5) / 4000)
    bounds = critical * np.sqrt(chi_squares / freedom)

    def lacking(noncentrality: float) -> float:
        return float(np.mean(ndtr(noncentrality - bounds) + ndtr(-noncentrality - bounds))) - POWER

    return float(brentq(lacking, 0.0, 10 + 10 * critical, xtol=1e-9))
