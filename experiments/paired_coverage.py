"""Simulate how often the interval of a difference of two groups of runs holds the true difference.

    python experiments/paired_coverage.py

A run answers a question where a latent score is positive. The score is the sum of the question's difficulty (standard deviation 1),
and of effects of the seed, of the question within the method, and of the run on the question. The true difference is 0. Four
intervals of level 95 % are compared; `compare` has the first one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from spac_repro.trust.crossed_effects import Questions, estimate

Array = np.ndarray[Any, np.dtype[np.float64]]
Interval = Callable[[Array, Array, bool], tuple[float, float]]

REPETITIONS = 2000
RESAMPLES = 400  # of the bootstrap
SEED = 20261126


@dataclass(frozen=True)
class Case:
    """Two groups of runs, and the standard deviations of the latent effects.

    Attributes:
        runs: Runs of A and of B.
        questions: Questions that each run answers.
        seed: Effect of a run on all questions.
        method: Effect of a method on a question.
        residual: Effect of a run on a question.
        matched: Whether half of a seed's variance is common to the runs of A and B with this seed, which are paired.
    """

    runs: tuple[int, int]
    questions: int
    seed: float
    method: float
    residual: float
    matched: bool = False

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """[runs, questions] answers of A, and of B."""
        difficulty, common = rng.normal(size=self.questions), rng.normal(size=(max(self.runs), 1)) * self.matched
        sides = []
        for count in self.runs:
            seeds = self.seed * (rng.normal(size=(count, 1)) + common[:count]) / math.sqrt(1 + self.matched)
            own = self.method * rng.normal(size=self.questions) + self.residual * rng.normal(size=(count, self.questions))
            sides.append((difficulty + seeds + own > 0).astype(float))
        return sides[0], sides[1]


def crossed(a: Array, b: Array, matched: bool) -> tuple[float, float]:
    """The interval of `compare`."""
    count = a.shape[1]
    questions = Questions(np.full(count, 1 / count), np.arange(count), np.zeros(count, dtype=int))
    interval = estimate(a, b, questions, matched=matched).interval(0.05)
    assert interval is not None
    return interval


def questions_alone(a: Array, b: Array, matched: bool) -> tuple[float, float]:
    """The paired t interval over questions, of means over runs."""
    return _t_interval(b.mean(axis=0) - a.mean(axis=0))


def seeds_alone(a: Array, b: Array, matched: bool) -> tuple[float, float]:
    """The t interval over runs (Welch's, or paired by seed), of means over questions."""
    if matched:
        return _t_interval((b - a).mean(axis=1))
    means = [side.mean(axis=1) for side in (a, b)]
    parts = [mean.var(ddof=1) / len(mean) for mean in means]
    variance, squares = sum(parts), sum(part**2 / (len(mean) - 1) for part, mean in zip(parts, means, strict=True))
    half = student.ppf(0.975, variance**2 / squares) * math.sqrt(variance) if squares else 0.0
    difference = means[1].mean() - means[0].mean()
    return difference - half, difference + half


def two_way_bootstrap(a: Array, b: Array, matched: bool) -> tuple[float, float]:
    """The percentile interval of a bootstrap that draws runs and questions, each with replacement (Owen 2007)."""
    rng = np.random.default_rng(len(a) + a.shape[1])
    count = a.shape[1]
    questions = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    drawn = [rng.multinomial(len(side), np.full(len(side), 1 / len(side)), RESAMPLES) / len(side) for side in (a, b)]
    runs_of_both = (drawn[0], drawn[0 if matched else 1])
    of_a, of_b = (np.sum((runs @ side) * questions, axis=1) for runs, side in zip(runs_of_both, (a, b), strict=True))
    low, high = np.quantile(of_b - of_a, [0.025, 0.975])
    return float(low), float(high)


def _t_interval(values: Array) -> tuple[float, float]:
    half = float(student.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def coverage(case: Case, interval: Interval, repetitions: int = REPETITIONS) -> float:
    """The share of intervals that hold 0."""
    rng = np.random.default_rng(SEED)
    covered = 0
    for _ in range(repetitions):
        low, high = interval(*case.draw(rng), case.matched)
        covered += low <= 0 <= high
    return covered / repetitions


CASES = (
    Case((5, 5), 400, 0.0, 0.3, 0.3),
    Case((5, 5), 400, 0.1, 0.3, 0.3),
    Case((5, 5), 400, 0.3, 0.3, 0.3),
    Case((5, 5), 50, 0.1, 0.3, 0.3),
    Case((5, 5), 400, 0.0, 0.0, 0.5),
    Case((10, 10), 400, 0.1, 0.3, 0.3),
    Case((3, 3), 400, 0.1, 0.3, 0.3),
    Case((5, 3), 400, 0.1, 0.3, 0.3),
    Case((2, 2), 400, 0.1, 0.3, 0.3),
    Case((5, 5), 400, 0.1, 0.3, 0.3, matched=True),
    Case((3, 3), 400, 0.3, 0.3, 0.3, matched=True),
)
INTERVALS = (crossed, questions_alone, seeds_alone, two_way_bootstrap)


def main() -> None:
    """Print the table."""
    effects = ["seed", "method × question", "run × question"]
    head = ["runs", "questions", *effects, "crossed", "questions alone", "seeds alone", "two-way bootstrap"]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    for case in CASES:
        rates = [f"{coverage(case, interval):.3f}" for interval in INTERVALS]
        runs = " and ".join(map(str, case.runs)) + (", paired" if case.matched else "")
        print("| " + " | ".join([runs, *map(str, (case.questions, case.seed, case.method, case.residual)), *rates]) + " |")


if __name__ == "__main__":
    main()
