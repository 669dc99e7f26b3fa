"""How far honest runs may be from a mean over seeds, and how widely they may spread, if scores are skewed.

Under normality these have closed forms. But the tests of each run and of the spread look far into the tails, where the normal
quantiles are far too small for skewed scores. So their quantiles are those of scores with skewness 2, the exponential
distribution's, by simulation. Scores that are less skewed exceed them less often. They find gross faults: from 13 to 19 standard
deviations on, with K = 10. A row whose scores are known to be skewed says so, and all its quantiles are those of a gamma
distribution of that skewness. docs/decisions/14-levels.md has the rates of false alarms.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

SKEWNESS = 2.0  # that the quantiles are at least for
DRAWS, CHUNK = 400_000, 20_000


def mean_quantile(df: int, seeds: int, runs: int, level: float, skewness: float) -> float:
    """The quantile of |f̄ − x̄| / (s_p √(1/k + 1/K)) that is exceeded with probability `level`; s_p is pooled over all runs.

    Args:
        df: degrees of freedom of s.
        seeds: K, the number of runs behind x̄.
        runs: k, the number of fresh runs.
        level: level of the test; above 1e-4, or there are too few draws in the tail.
        skewness: of the scores, without its sign.
    """
    return _quantile(_simulated(df, seeds, runs, skewness).mean, level)


def furthest_run_quantile(df: int, seeds: int, runs: int, level: float, skewness: float = SKEWNESS) -> float:
    """The quantile of max_i |f_i − x̄| / (s √(1 + 1/K)) that is exceeded with probability `level`.

    Args:
        df: degrees of freedom of s.
        seeds: K, the number of runs behind x̄.
        runs: k, the number of fresh runs f_i.
        level: level of the test; above 1e-4, or there are too few draws in the tail.
        skewness: of the scores, without its sign.
    """
    return _quantile(_simulated(df, seeds, runs, skewness).furthest, level)


def spread_quantile(df: int, seeds: int, runs: int, level: float, skewness: float = SKEWNESS) -> float:
    """The quantile of s_f / s that is exceeded with probability `level`, with s_f the standard deviation of the fresh runs.

    Args:
        df: degrees of freedom of s.
        seeds: K, the number of runs behind the expected mean.
        runs: k, the number of fresh runs.
        level: level of the test; above 1e-4, or there are too few draws in the tail.
        skewness: of the scores, without its sign.
    """
    return _quantile(_simulated(df, seeds, runs, skewness).spread, level)


def _quantile(ascending: "Array", level: float) -> float:
    return float(ascending[len(ascending) - 1 - int(level * len(ascending))])


class _Statistics(NamedTuple):
    """The statistics of the three tests, each in ascending order [DRAWS]."""

    mean: "Array"
    furthest: "Array"
    spread: "Array"


@lru_cache(maxsize=8)
def _simulated(df: int, seeds: int, runs: int, skewness: float) -> _Statistics:
    """The statistics of honest runs whose scores are of a gamma distribution. The draws are the same in every process.

    A measured row's x̄ and s are of the same K = df + 1 seeds. A published row's x̄ is one run, and s is borrowed from others.
    """
    import numpy as np

    rng, shape = np.random.default_rng(0), 4 / skewness**2  # of the gamma distribution with this skewness; at 2 it is exponential
    chunks = []
    for _ in range(DRAWS // CHUNK):
        expected = rng.standard_gamma(shape, (CHUNK, df + 1))
        sd = expected.std(axis=1, ddof=1)
        mean = expected.mean(axis=1) if seeds == df + 1 else rng.standard_gamma(shape, (CHUNK, seeds)).mean(axis=1)
        fresh = rng.standard_gamma(shape, (CHUNK, runs))
        spread = fresh.std(axis=1, ddof=1) if runs > 1 else np.zeros(CHUNK)
        pooled = np.sqrt((df * sd**2 + (runs - 1) * spread**2) / (df + runs - 1))
        chunks.append(
            (
                np.abs(fresh.mean(axis=1) - mean) / (pooled * np.sqrt(1 / runs + 1 / seeds)),
                np.abs(fresh - mean[:, None]).max(axis=1) / (sd * np.sqrt(1 + 1 / seeds)),
                spread / sd,
            )
        )
    return _Statistics(*(np.sort(np.concatenate(drawn)) for drawn in zip(*chunks, strict=True)))
