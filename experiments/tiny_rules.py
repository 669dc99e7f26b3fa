"""The rules by which methods are tuned and compared on `tiny`: pure functions of scores that runs have.

Every method has the same grid of learning rates and the same number of points. First its learning rate, at the recipe's β; then β,
at the best learning rate. A method without β has two more learning rates instead. Where the best value is the last one of its side,
the grid is extended once, by one value on that side. The best point has the highest gold reward at the last iterate.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

TUNING_SEED = 100  # in no reported result
FIRST_SEEDS = (1, 2, 3, 4, 5)  # of every method
MORE_SEEDS = (6, 7, 8, 9, 10)  # of SPAC, DPO and whoever is close
FRESH_SEEDS = tuple(range(11, 21))  # to measure false alarms with
RATIO_SEEDS = (1, 2, 3)
CLOSE = 0.03  # gold reward
RATES = (3e-5, 1e-4, 3e-4)
RATES_WITHOUT_BETA = (1e-5, *RATES, 1e-3)
STEP = 3.0  # from a value to the next
RATIOS = (0.1, 0.56, 3.2, 18.0, 100.0)  # of the preference term's weight to the critic term's: five points over three decades
CRITICS = ("smoothed", "linear")
BASELINES = ("both", "chosen", "rejected", "none")
MOST_POINTS = 7  # five, and one more for each of the two grids


class Point(NamedTuple):
    """The settings of a tuning run; β is None for a method without it."""

    learning_rate: float
    beta: float | None

    def settings(self, method: str) -> dict[str, float]:
        """The changed settings, by dotted key."""
        named = {"learning_rate": self.learning_rate, **({} if self.beta is None else {"beta": self.beta})}
        return {f"methods.{method}.{key}": value for key, value in named.items()}

    def __str__(self) -> str:
        return f"learning_rate={self.learning_rate:g}" + ("" if self.beta is None else f"/beta={self.beta:g}")


Scores = Mapping[Point, float]  # gold reward of the last iterate; -inf for a training that was not finite


def neighbour(value: float, steps: int) -> float:
    """The value that many steps away on the grid, to two digits."""
    return float(f"{value * STEP**steps:.2g}")


def missing(scores: Scores, beta: float | None, rates: Sequence[float] | None = None) -> list[Point]:
    """The points that are to be trained next; none where the tuning is complete.

    Args:
        scores: of the points so far.
        beta: the recipe's; None for a method without β.
        rates: learning rates; None: the grid. A single one is not extended.
    """
    if rates is None:
        rates = RATES if beta is not None else RATES_WITHOUT_BETA
    first = [Point(rate, beta) for rate in rates]
    if absent := _absent(first, scores):
        return absent
    rate = _best_value([(point.learning_rate, scores[point]) for point in first])
    if len(rates) > 1 and (further := _beyond(rate, rates)) is not None:
        extended = Point(further, beta)
        if extended not in scores:
            return [extended]
        rate = further if scores[extended] > scores[Point(rate, beta)] else rate
    if beta is None:
        return []
    betas = [neighbour(beta, -1), beta, neighbour(beta, 1)]
    if absent := _absent([Point(rate, value) for value in betas], scores):
        return absent
    best = _best_value([(value, scores[Point(rate, value)]) for value in betas])
    edge = _beyond(best, betas)
    return [] if edge is None else _absent([Point(rate, edge)], scores)


def best(scores: Scores) -> Point:
    """The point with the highest score; of equal ones the first."""
    return max(scores, key=lambda point: scores[point])


def on_edge(scores: Scores) -> list[str]:
    """Which settings of the best point are still the smallest or largest that was tried, after the extension."""
    chosen = best(scores)
    found = []
    rates = sorted({point.learning_rate for point in scores})
    betas = sorted({point.beta for point in scores if point.learning_rate == chosen.learning_rate and point.beta is not None})
    for name, value, tried in (("learning_rate", chosen.learning_rate, rates), ("beta", chosen.beta, betas)):
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            found.append(name)
    return found


def close(rewards: Mapping[str, float], base: str = "spac") -> list[str]:
    """The methods that get all seeds: the base, DPO, and whoever is within `CLOSE` of the base or above it."""
    return [method for method in rewards if method in (base, "dpo") or rewards[method] >= rewards[base] - CLOSE]


def best_rivals(rewards: Mapping[str, float], base: str = "spac", most: int = 3) -> list[str]:
    """The methods with the highest rewards beside the base."""
    rivals = sorted((method for method in rewards if method != base), key=lambda method: -rewards[method])
    return rivals[:most]


def _absent(points: Sequence[Point], scores: Scores) -> list[Point]:
    return [point for point in points if point not in scores]


def _best_value(found: Sequence[tuple[float, float]]) -> float:
    return max(found, key=lambda pair: pair[1])[0]


def _beyond(value: float, tried: Sequence[float]) -> float | None:
    """The next value where the best one is at an end of those that were tried; else None."""
    if value == max(tried):
        return neighbour(value, 1)
    return neighbour(value, -1) if value == min(tried) else None
