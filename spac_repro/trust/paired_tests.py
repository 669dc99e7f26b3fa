"""Tests of two models on the same questions: McNemar's, sign flips, Holm's correction, and the difference that could be found.

docs/decisions/15-paired.md has the reasons.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from spac_repro.trust.statistics import POWER, normal_quantile

if TYPE_CHECKING:
    import numpy as np

MOST_ENUMERATED = 20  # units that differ, up to which all sign flips are enumerated
DRAWS = 20_000  # sign flips that are drawn where there are too many
SEED = 24  # of the draws


class PValue(NamedTuple):
    """A p value, and how exact it is."""

    value: float
    method: str  # "McNemar, exact", "sign flips, all", "sign flips, drawn", "t"
    error: float = 0.0  # standard error of a value that comes from draws


def mcnemar(gained: int, lost: int) -> PValue:
    """McNemar's exact test: of the questions that one model alone answers, either one answers each with probability ½.

    p = min(1, 2 · P(X ≤ min(gained, lost))), X ~ Binomial(gained + lost, ½) (McNemar 1947, in its exact conditional form).

    Args:
        gained: questions that B alone answers.
        lost: questions that A alone answers.
    """
    return PValue(min(1.0, 2 * _binomial_cdf(min(gained, lost), gained + lost)), "McNemar, exact")


def sign_flips(differences: "Sequence[float] | np.ndarray") -> PValue:
    """The paired permutation test of a mean (Fisher 1935): under the null each difference has either sign with probability ½.

    p is the share of sign flips whose sum is as far from 0 as the sum that was found. Up to `MOST_ENUMERATED` differences that are
    not 0, every flip is looked at. Otherwise `DRAWS` of them are drawn with a fixed seed, and the found one is counted with them,
    so p is never too small on average (Davison and Hinkley 1997, section 4.3).

    Args:
        differences: [units] one for each unit that is flipped as a whole: a question, or the sum over a cluster.
    """
    import numpy as np

    sizes = np.abs(np.asarray([each for each in differences if each != 0.0], dtype=float))
    furthest = abs(math.fsum(differences)) - 1e-9 * float(sizes.sum())  # sums of equal numbers differ by rounding
    if len(sizes) <= MOST_ENUMERATED:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate((sums + size, sums - size))
        return PValue(float(np.mean(np.abs(sums) >= furthest)), "sign flips, all")
    rng = np.random.default_rng(SEED)
    found = sum(int(np.sum(np.abs(_drawn_sums(rng, sizes, draws)) >= furthest)) for draws in _chunks(len(sizes)))
    p = (1 + found) / (1 + DRAWS)
    return PValue(p, "sign flips, drawn", math.sqrt(p * (1 - p) / DRAWS))


def _drawn_sums(rng: "np.random.Generator", sizes: "np.ndarray", draws: int) -> "np.ndarray":
    """[draws] sums with random signs: all of them negative, and twice those that are flipped added."""
    import numpy as np

    bits = np.frombuffer(rng.bytes(draws * -(-len(sizes) // 8)), dtype=np.uint8).reshape(draws, -1)
    flipped = np.unpackbits(bits, axis=1, count=len(sizes)).astype(np.float64)
    return np.asarray(2 * (flipped @ sizes) - sizes.sum())


def _chunks(units: int, most: int = 1 << 22) -> list[int]:
    """Numbers of draws that add up to `DRAWS`, each with at most about `most` signs."""
    size = max(1, most // units)
    return [min(size, DRAWS - start) for start in range(0, DRAWS, size)]


def holm(values: Sequence[float]) -> list[float]:
    """The p values, corrected so that one or more of them is below α with probability α at most where no null is false (Holm 1979).

    In ascending order, the i-th of m is multiplied by m − i + 1, and is at least the one before it.
    """
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def share_interval(gained: int, lost: int, questions: int, alpha: float) -> tuple[float, float]:
    """The interval of B's share less A's, of the same questions (Bonett and Price 2012): Wald's with two questions added.

    One question is added that is gained, and one that is lost. So the interval has a width where nothing flipped.

    Args:
        gained: questions that B alone answers.
        lost: questions that A alone answers.
        questions: questions in all.
        alpha: 1 − the level.
    """
    p, q = (gained + 1) / (questions + 2), (lost + 1) / (questions + 2)
    half = normal_quantile(1 - alpha / 2) * math.sqrt((p + q - (p - q) ** 2) / (questions + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)


def detectable_share(gained: int, lost: int, questions: int, alpha: float) -> float | None:
    """The smallest true difference of two shares that McNemar's exact test finds with probability `POWER`.

    A question flips with the rate of the data, with the two questions of `share_interval` added; or with the difference itself,
    where that is larger.

    Args:
        gained: questions that B alone answers.
        lost: questions that A alone answers.
        questions: questions in all.
        alpha: level of the test.

    Returns:
        The difference; None if not even a difference of 1 would be found.
    """
    from scipy.optimize import brentq

    rate = (gained + lost + 2) / (questions + 2)
    if mcnemar_power(questions, 1.0, 1.0, alpha) < POWER:
        return None
    return float(brentq(lambda size: mcnemar_power(questions, max(rate, size), size, alpha) - POWER, 0.0, 1.0, xtol=1e-6))


def mcnemar_power(questions: int, rate: float, difference: float, alpha: float) -> float:
    """The probability that McNemar's exact test is significant.

    Args:
        questions: questions in all.
        rate: probability that a question flips.
        difference: of the two shares; at most `rate`.
        alpha: level of the test.
    """
    import numpy as np
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    spread = 8 * math.sqrt(questions * rate * (1 - rate)) + 8
    flips = np.arange(max(0, math.floor(questions * rate - spread)), min(questions, math.ceil(questions * rate + spread)) + 1)
    choices = gammaln(questions + 1) - gammaln(flips + 1) - gammaln(questions - flips + 1)
    chance = np.exp(choices + xlogy(flips, rate) + xlog1py(questions - flips, -rate))
    fewest = np.array([_largest_significant(int(number), alpha) for number in flips])  # of the rarer kind; −1: none is significant
    there = fewest >= 0
    toward = (1 + difference / rate) / 2
    n, k = flips[there], fewest[there].astype(float)
    return float(chance[there] @ (bdtr(k, n, toward) + bdtr(k, n, 1 - toward)))


def _largest_significant(flips: int, alpha: float) -> int:
    """The largest number of the rarer kind of flips at which McNemar's test is significant; −1 if there is none."""
    from scipy.special import bdtr, bdtrik

    guess = bdtrik(alpha / 2, flips, 0.5) if flips else math.nan
    largest = -1 if math.isnan(guess) else max(-1, math.floor(guess) - 2)
    while 2 * (largest + 1) < flips and 2 * float(bdtr(largest + 1, flips, 0.5)) <= alpha:
        largest += 1
    return largest


def _binomial_cdf(successes: int, trials: int) -> float:
    """P(X ≤ successes) of a Binomial(trials, ½)."""
    from scipy.special import bdtr

    return float(bdtr(successes, trials, 0.5)) if trials else 1.0
