"""The critic, solved exactly as the convex problem it is, for many graphs at once.

    minimise over f in [0, R]   ⟨c, f⟩ + Σ_edges w · ( wins · log(1 + e^{−(f_i − f_j)}) + losses · log(1 + e^{f_i − f_j}) )

with c = share · (π_t − μ̂) and w = λ/n for the game [abstract, reading], or c = 0 for the bounded maximum-likelihood reward.
Projected Newton (Bertsekas 1982): the responses that press against a bound step aside, the others take one Newton step,
and all problems share one sparse factorisation. The answer carries a certificate: by convexity no f in the box is better than
the one returned by more than the Frank–Wolfe gap  max_{f′} ⟨∇, f − f′⟩, which is read off the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from scipy.special import expit

from spac_repro.errors import UserError
from spac_repro.theory.comparisons import Comparisons
from spac_repro.theory.instances import Array

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Critic:
    """values [N] f in [0, R]; objective [P]; gap [P]: how much better any f could be at most; steps: Newton steps taken."""

    values: Array
    objective: Array
    gap: Array
    steps: int


def solve(
    data: Comparisons,
    linear: Array,
    weight: Array,
    bound: float,
    *,
    start: Array | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 500,
) -> Critic:
    """The critic's optimum. `linear` c [N], `weight` w [P] ≥ 0, `bound` R > 0; `start` [N] a warm start.

    A response that was never seen and has c = 0 is not determined: it keeps its start (0 unless given). With c > 0 (the
    leader says it, the data never did) its value is 0: the pessimistic answer.
    """
    _check(data, linear, weight, bound)
    problem, first = data.problem, data.first[:-1]
    w = weight[problem[data.left]]
    lower, upper = w * data.wins, w * data.losses
    f = np.where(data.seen > 0, bound / 2, 0.0) if start is None else np.clip(start, 0.0, bound)

    def objective(f: Array) -> Array:
        d = f[data.left] - f[data.right]
        # log(1 + e^{-d}) and log(1 + e^{d}) from one evaluation each.
        tail = np.log1p(np.exp(-np.abs(d)))
        edges = lower * (tail + np.maximum(-d, 0)) + upper * (tail + np.maximum(d, 0))
        return np.add.reduceat(linear * f, first) + np.bincount(problem[data.left], weights=edges, minlength=len(first))

    value = objective(f)
    for step in range(max_steps + 1):
        up = expit(f[data.left] - f[data.right])
        slope = upper * up - lower * (1 - up)
        gradient = linear + data.gather(slope, -slope)
        gap = np.add.reduceat(np.where(gradient > 0, gradient * f, gradient * (f - bound)), first)
        open_problems = gap > tolerance
        if step == max_steps or not open_problems.any():
            break
        curvature = (lower + upper) * up * (1 - up)
        direction = _direction(data, f, gradient, curvature, gap, open_problems, bound)
        f, value = _search(data, objective, f, value, gradient, direction, open_problems, bound)
    return Critic(f, value, gap, step)


def _direction(
    data: Comparisons, f: Array, gradient: Array, curvature: Array, gap: Array, open_problems: Mask, bound: float
) -> Array:
    """A Newton direction on the free responses, a scaled gradient one on those that press against a bound."""
    problem = data.problem
    # The damping vanishes with the gap; without it a component that no bound holds yet could leap arbitrarily far.
    damping = (1e-3 * gap / bound**2 + 1e-12)[problem]
    near = np.minimum(1e-3 * bound, gap / bound)[problem]
    pressed = ((f <= near) & (gradient > 0)) | ((f >= bound - near) & (gradient < 0)) | ~open_problems[problem]
    diagonal = data.gather(curvature, curvature) + damping
    inner = ~pressed[data.left] & ~pressed[data.right] & (curvature > 0)
    direction = -gradient / diagonal
    free = np.flatnonzero(~pressed)
    if len(free) == 0:
        return direction
    number = np.full(len(f), -1)
    # Few neighbours first keeps the factors sparse: the crowd goes before the responses it was compared with.
    degree = data.gather(inner.astype(np.float64), inner.astype(np.float64))
    free = free[np.argsort(degree[free], kind="stable")]
    number[free] = np.arange(len(free))
    i, j, h = number[data.left[inner]], number[data.right[inner]], -curvature[inner]
    own = np.arange(len(free))
    matrix = csc_array(
        (np.concatenate([diagonal[free], h, h]), (np.concatenate([own, i, j]), np.concatenate([own, j, i]))),
        shape=(len(free), len(free)),
    )
    factor = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    direction[free] = factor.solve(-gradient[free])
    return direction


def _search(
    data: Comparisons, objective: Callable[[Array], Array], f: Array, value: Array, gradient: Array, direction: Array,
    open_problems: Mask, bound: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Backtracking along the projected arc, each problem with its own step length: the new f and its objective."""
    problem, first = data.problem, data.first[:-1]
    length = np.where(open_problems, 1.0, 0.0)
    for _ in range(40):
        trial = np.clip(f + length[problem] * direction, 0.0, bound)
        trial_value = objective(trial)
        promise = np.add.reduceat(gradient * (trial - f), first)
        good = trial_value <= value + 1e-4 * np.minimum(promise, 0) + 1e-13 * np.abs(value)
        if good.all():
            return trial, trial_value
        length = np.where(good, length, length / 2)
    keep = good[problem]
    return np.where(keep, trial, f), np.where(good, trial_value, value)


def _check(data: Comparisons, linear: Array, weight: Array, bound: float) -> None:
    if linear.shape != data.seen.shape or weight.shape != data.run.shape:
        raise UserError(
            f"critic: linear has shape {linear.shape} and weight {weight.shape}; give one entry for each of "
            f"{len(data.seen)} responses and {len(data.run)} problems"
        )
    if not (np.isfinite(bound) and bound > 0):
        raise UserError(f"bound: is {bound:g}; give a positive number")
    if not np.isfinite(linear).all():
        raise UserError("critic: the linear term holds a value that is not finite; check the policy")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise UserError("λ: is negative or not finite; give a number of at least 0")
