"""How far two groups are apart that report the same score of a published method, and what a row can claim then.

Groups score *the same weights* differently, because their harness, its version and their machine differ. Of these scores the
variance between groups is estimated task by task, pooled over models:

    s² = Σ_model df_model · s²_model / Σ_model df_model

The iterations of one training are no independent models: the same groups scored all of them, with the same harness. So a training
counts once. Its s² is that of all its iterations together, and its degrees of freedom are those of one iteration.

Groups that *trained on their own* differ by far more, and two of them are too few to estimate a spread from. The row of a trained
method therefore has an argued tolerance: what two evaluations differ by, and the gain itself.

    |value − start| + t(df, 1 − α/2) · s · √2

docs/decisions/16-between-groups.md derives both, and says what is left to be found.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Scored = Mapping[int, Sequence[float]]  # of one training: for each iteration, one value a group, of the same weights


class GroupSpread(NamedTuple):
    """The standard deviation between groups of a score of the same weights."""

    sd: float  # in the metric's unit
    degrees_of_freedom: int


def evaluation_spread(trainings: Sequence[Scored]) -> GroupSpread | None:
    """Estimate the spread between groups from scores of the same weights; None where no model was scored twice."""
    squares, total = 0.0, 0
    for training in trainings:
        scored = [values for values in training.values() if len(values) > 1]
        if not scored:
            continue
        deviations = math.fsum(statistics.variance(values) * (len(values) - 1) for values in scored)
        df = max(len(values) - 1 for values in scored)
        squares += df * deviations / sum(len(values) - 1 for values in scored)
        total += df
    return GroupSpread(math.sqrt(squares / total), total) if total else None


def evaluation_tolerance(spread: GroupSpread, alpha: float) -> float:
    """The largest difference of two evaluations of the same weights by two groups that agrees, at a level."""
    from scipy.special import stdtrit

    return float(stdtrit(spread.degrees_of_freedom, 1 - alpha / 2)) * spread.sd * math.sqrt(2)


def method_tolerance(value: float, start: float, spread: GroupSpread, alpha: float) -> float:
    """The tolerance of a score of a method that somebody else trained: its gain over the start, and what evaluations differ by."""
    return abs(value - start) + evaluation_tolerance(spread, alpha)
