"""How far one of several honest runs may be from a mean over seeds, and how widely they may spread, if scores are skewed.

Under normality both have closed forms. But these tests look far into the tails, and there the normal quantiles are far too small
for skewed scores: with K = k = 20, 20 % of honest families of the tabular setting's most skewed row fail them
(docs/decisions/14-levels.md). So the quantiles are those of scores with skewness 2, the exponential distribution's, by simulation.
Scores that are less skewed exceed them less often. They find gross faults: from 10 to 18 standard deviations on, with K = 10.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DRAWS, CHUNK = 400_000, 20_000


def furthest_run_quantile(df: int, seeds: int, runs: int, level: float) -> float:
    """The quantile of max_i |f_i − x̄| / (s √(1 + 1/K)) that is exceeded with probability `level`.

    Args:
        df: degrees of freedom of s.
        seeds: K, the number of runs behind x̄.
        runs: k, the number of fresh runs f_i.
        level: level of the test; above 1e-4, or there are too few draws in the tail.
    """
    return _quantile(_simulated(df, seeds, runs)[0], level)


def spread_quantile(df: int, seeds: int, runs: int, level: float) -> float:
    """The quantile of s_f / s that is exceeded with probability `level`, with s_f the standard deviation of the fresh runs.

    Args:
        df: degrees of freedom of s.
        seeds: K, the number of runs behind the expected mean.
        runs: k, the number of fresh runs.
        level: level of the test; above 1e-4, or there are too few draws in the tail.
    """
    return _quantile(_simulated(df, seeds, runs)[1], level)


def _quantile(ascending: "np.ndarray[Any, Any]", level: float) -> float:
    return float(ascending[len(ascending) - 1 - int(level * len(ascending))])


@lru_cache(maxsize=8)
def _simulated(df: int, seeds: int, runs: int) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Both statistics in ascending order [DRAWS], for exponential scores. The draws are the same in every process.

    A measured row's x̄ and s are of the same K = df + 1 seeds. A published row's x̄ is one run, and s is borrowed from others.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    furthest, spread = [], []
    for _ in range(DRAWS // CHUNK):
        expected = rng.standard_exponential((CHUNK, df + 1))
        sd = expected.std(axis=1, ddof=1)
        mean = expected.mean(axis=1) if seeds == df + 1 else rng.standard_exponential((CHUNK, seeds)).mean(axis=1)
        fresh = rng.standard_exponential((CHUNK, runs))
        furthest.append(np.abs(fresh - mean[:, None]).max(axis=1) / (sd * np.sqrt(1 + 1 / seeds)))
        spread.append(fresh.std(axis=1, ddof=1) / sd)
    return np.sort(np.concatenate(furthest)), np.sort(np.concatenate(spread))
