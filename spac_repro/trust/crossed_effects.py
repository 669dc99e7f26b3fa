"""The difference between two groups of runs on the same questions: seeds and questions are two crossed sources of noise.

Every run answers every question once. A value is modelled as the mean of its group, an effect of the run (its seed), an effect of
the question, one of the question within the group, and a residual that is each run's own on each question. All but the mean are
random with mean 0. The difference D of the two groups' means then has the variance (Searle, Casella and McCulloch 1992, chapter 4)

    Var(D) = Σ_groups σ²_seed/k + σ²_question/n + Σ_groups σ²_residual/(k n)

for k runs of a group and n questions; σ²_question is that of the difference. Three estimates have these expectations:

    seeds      s²(means of the runs)/k                     σ²_seed/k + σ²_residual/(k n)
    questions  s²(differences by question, over runs)/n    σ²_question/n + Σ_groups σ²_residual/(k n)
    residuals  mean square of the residuals/(k n)          σ²_residual/(k n)

so seeds + questions − residuals is unbiased. It is never taken to be below either of the first two. Student's t has the degrees of
freedom of Satterthwaite (1946). Runs that are matched by their seed are one group of differences.

A score may weight its questions (a mean over subjects, an average over tasks), and questions of one cluster may depend on each
other. Then `questions` and `residuals` are sums of squares over clusters, within each stratum (a task), as for a clustered standard
error. docs/decisions/15-paired.md says why this and no bootstrap, and at which numbers of seeds and questions the interval covers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from spac_repro.trust.paired_tests import PValue
from spac_repro.trust.statistics import noncentrality, t_quantile

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Questions:
    """What the score of a run does with its questions.

    Attributes:
        weights: [questions] of each question in the score; they add up to 1.
        clusters: [questions] the number of its cluster.
        strata: [questions] the number of its stratum: a task. A cluster lies in one stratum.
    """

    weights: "np.ndarray"
    clusters: "np.ndarray"
    strata: "np.ndarray"


class _Part(NamedTuple):
    """A mean square's part in the variance, with its degrees of freedom."""

    value: float
    df: float


@dataclass(frozen=True)
class Estimate:
    """A difference with the noise of seeds and questions.

    Attributes:
        difference: B − A, in the metric's unit.
        stderr: Its standard error; None if a task has fewer than two clusters of questions.
        df: Degrees of freedom of the standard error.
        seeds: The part of the standard error that seeds have: of the means of the runs; None if no group has several runs.
        questions: The part that questions have.
    """

    difference: float
    stderr: float | None = None
    df: float = 0.0
    seeds: float | None = None
    questions: float | None = None

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """The interval of level 1 − alpha; None if the standard error is not known, or 0 because nothing varies."""
        if not self.stderr:
            return None
        half = t_quantile(self.df, alpha) * self.stderr
        return self.difference - half, self.difference + half

    def p(self) -> PValue | None:
        """The two-sided p value of Student's t; None if the standard error is not known, 1 if nothing differs."""
        from scipy.special import stdtr

        if self.stderr is None:
            return None
        if self.stderr == 0.0:
            return PValue(1.0 if self.difference == 0.0 else 0.0, "t")
        return PValue(2 * float(stdtr(self.df, -abs(self.difference) / self.stderr)), "t")

    def detectable(self, alpha: float) -> float | None:
        """The true difference that a t test of this standard error finds with probability 0.8; None if it is not known, or 0."""
        return noncentrality(self.df, alpha) * self.stderr if self.stderr else None


def estimate(a: "np.ndarray", b: "np.ndarray", questions: Questions, *, matched: bool = False) -> Estimate:
    """Estimate the difference of two groups of runs.

    Args:
        a: [runs of A, questions] the values of A.
        b: [runs of B, questions] the values of B.
        questions: the same questions for all runs.
        matched: whether run i of A and run i of B have the same seed, so that what the seed does to both cancels.
    """
    import numpy as np

    groups: Sequence[np.ndarray] = [b - a] if matched else [b, -a]
    by_question = np.sum([group.mean(axis=0) for group in groups], axis=0)
    difference = float(by_question @ questions.weights)
    of_questions = _between_clusters(by_question[None], questions)
    if of_questions is None:
        return Estimate(difference)
    several = [group for group in groups if len(group) > 1]
    of_seeds = [_Part(float(np.var(group @ questions.weights, ddof=1)) / len(group), len(group) - 1) for group in several]
    residuals = [part for group in several for part in _residuals(group, questions)]
    seeds, unique = (sum(part.value for part in parts) for parts in (of_seeds, of_questions))
    variance = max(seeds + unique - sum(part.value for part in residuals), seeds, unique)
    return Estimate(
        difference,
        math.sqrt(variance),
        _satterthwaite(variance, [*of_seeds, *of_questions, *residuals]),
        math.sqrt(seeds) if several else None,
        math.sqrt(unique),
    )


def _between_clusters(values: "np.ndarray", questions: Questions) -> list[_Part] | None:
    """The variance of the weighted mean that clusters have, for each stratum, summed over the rows; None if it is not known.

    Args:
        values: [rows, questions].
        questions: their weights, clusters and strata.
    """
    import numpy as np

    parts = []
    for stratum in np.unique(questions.strata):
        inside = questions.strata == stratum
        weights, own = questions.weights[inside], values[:, inside]
        names, place = np.unique(questions.clusters[inside], return_inverse=True)
        count = len(names)
        if count < 2:
            return None
        deviations = weights * (own - (own @ weights)[:, None] / weights.sum())
        sums = [np.bincount(place, row, count) for row in deviations]
        parts.append(_Part(count / (count - 1) * float(np.sum(np.square(sums))), count - 1))
    return parts


def _residuals(group: "np.ndarray", questions: Questions) -> list[_Part]:
    """The variance of the group's mean that residuals have, for each stratum."""
    runs = len(group)
    parts = _between_clusters(group - group.mean(axis=0), questions) or []
    return [_Part(value / (runs - 1) / runs, df * (runs - 1)) for value, df in parts]


def _satterthwaite(variance: float, parts: Sequence[_Part]) -> float:
    """The degrees of freedom of a sum of independent mean squares (Satterthwaite 1946)."""
    squares = sum(part.value**2 / part.df for part in parts)
    return variance**2 / squares if squares > 0.0 else float(max(part.df for part in parts))
