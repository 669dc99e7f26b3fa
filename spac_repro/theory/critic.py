"""The tabular critic: its convex problem is solved exactly, for many preference graphs at once.

    minimise over f in [0, R]   ⟨c, f⟩ + Σ_edges w · ( wins · log(1 + e^{−(f_i − f_j)}) + losses · log(1 + e^{f_i − f_j}) )

with c = P(x) · (π_{t−1} − μ̂) and w = λ/n in SPAC's game [abstract, reading], or c = 0 for the bounded maximum-likelihood reward.
The solver is projected Newton (Bertsekas 1982, SIAM J. Control Optim. 20(2)): responses at an active bound take a scaled gradient
step, the others take one Newton step, and all problems share one sparse factorisation. The solution comes with a certificate: by
convexity no f in [0, R] improves the objective by more than the Frank–Wolfe gap  max_{f′} ⟨∇, f − f′⟩, computed from the gradient.
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
from spac_repro.theory.instances import Array
from spac_repro.theory.preference_graph import PreferenceGraph

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CriticSolution:
    """A solved critic.

    Attributes:
        values: [N] f in [0, R].
        objective: [P] value of the critic's objective.
        gap: [P] Frank–Wolfe gap: an upper bound on how much lower the objective can be.
        newton_steps: Newton steps taken.
    """

    values: Array
    objective: Array
    gap: Array
    newton_steps: int


def solve_critic(
    data: PreferenceGraph,
    linear: Array,
    weight: Array,
    bound: float,
    *,
    warm_start: Array | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 500,
) -> CriticSolution:
    """Solve the critic's problem (equation in the module's docstring) for every problem of the graph.

    A response without data and with c = 0 is not determined: it keeps its warm start (0 by default). A response without data
    and with c > 0 (the policy samples it) gets 0, the pessimistic value.

    Args:
        data: The preference graph.
        linear: [N] coefficients c of the linear term.
        weight: [P] weights w ≥ 0 of the preference term.
        bound: R > 0, the upper bound of f.
        warm_start: [N] the f to start from.
        tolerance: Stop when every problem's gap is at most this.
        max_steps: Stop after this many Newton steps.

    Raises:
        UserError: A shape is wrong, or a value is negative or not finite.
    """
    _check(data, linear, weight, bound)
    problem, offsets = data.problem, data.offsets[:-1]
    w = weight[problem[data.left]]
    lower, upper = w * data.wins, w * data.losses
    f = np.where(data.counts > 0, bound / 2, 0.0) if warm_start is None else np.clip(warm_start, 0.0, bound)

    def objective(f: Array) -> Array:
        d = f[data.left] - f[data.right]
        # log(1 + e^{-d}) and log(1 + e^{d}) from one evaluation each.
        tail = np.log1p(np.exp(-np.abs(d)))
        edges = lower * (tail + np.maximum(-d, 0)) + upper * (tail + np.maximum(d, 0))
        return np.add.reduceat(linear * f, offsets) + np.bincount(problem[data.left], weights=edges, minlength=len(offsets))

    value = objective(f)
    for step in range(max_steps + 1):
        up = expit(f[data.left] - f[data.right])
        slope = upper * up - lower * (1 - up)
        gradient = linear + data.node_sums(slope, -slope)
        gap = np.add.reduceat(np.where(gradient > 0, gradient * f, gradient * (f - bound)), offsets)
        unsolved = gap > tolerance
        if step == max_steps or not unsolved.any():
            break
        curvature = (lower + upper) * up * (1 - up)
        direction = _direction(data, f, gradient, curvature, gap, unsolved, bound)
        f, value = _line_search(data, objective, f, value, gradient, direction, unsolved, bound)
    return CriticSolution(f, value, gap, step)


def _direction(
    data: PreferenceGraph, f: Array, gradient: Array, curvature: Array, gap: Array, unsolved: Mask, bound: float
) -> Array:
    """Return the Newton direction for free responses, and a scaled gradient for responses at an active bound: [N]."""
    problem = data.problem
    # The damping vanishes with the gap. Without it, a component that no bound holds yet could take an arbitrarily long step.
    damping = (1e-3 * gap / bound**2 + 1e-12)[problem]
    near = np.minimum(1e-3 * bound, gap / bound)[problem]
    at_bound = ((f <= near) & (gradient > 0)) | ((f >= bound - near) & (gradient < 0)) | ~unsolved[problem]
    diagonal = data.node_sums(curvature, curvature) + damping
    free_edges = ~at_bound[data.left] & ~at_bound[data.right] & (curvature > 0)
    direction = -gradient / diagonal
    free = np.flatnonzero(~at_bound)
    if len(free) == 0:
        return direction
    position = np.full(len(f), -1)
    # Eliminating nodes with few neighbours first keeps the factors sparse: the long tail comes before what it was compared with.
    degree = data.node_sums(free_edges.astype(np.float64), free_edges.astype(np.float64))
    free = free[np.argsort(degree[free], kind="stable")]
    position[free] = np.arange(len(free))
    i, j, h = position[data.left[free_edges]], position[data.right[free_edges]], -curvature[free_edges]
    own = np.arange(len(free))
    matrix = csc_array(
        (np.concatenate([diagonal[free], h, h]), (np.concatenate([own, i, j]), np.concatenate([own, j, i]))),
        shape=(len(free), len(free)),
    )
    factor = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    direction[free] = factor.solve(-gradient[free])
    return direction


def _line_search(
    data: PreferenceGraph, objective: Callable[[Array], Array], f: Array, value: Array, gradient: Array, direction: Array,
    unsolved: Mask, bound: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Backtrack along the projected arc, each problem with its own step length; return the new f [N] and its objective [P]."""
    problem, offsets = data.problem, data.offsets[:-1]
    step_length = np.where(unsolved, 1.0, 0.0)
    for _ in range(40):
        trial = np.clip(f + step_length[problem] * direction, 0.0, bound)
        trial_value = objective(trial)
        predicted = np.add.reduceat(gradient * (trial - f), offsets)
        accepted = trial_value <= value + 1e-4 * np.minimum(predicted, 0) + 1e-13 * np.abs(value)
        if accepted.all():
            return trial, trial_value
        step_length = np.where(accepted, step_length, step_length / 2)
    keep = accepted[problem]
    return np.where(keep, trial, f), np.where(accepted, trial_value, value)


def _check(data: PreferenceGraph, linear: Array, weight: Array, bound: float) -> None:
    if linear.shape != data.counts.shape or weight.shape != data.run.shape:
        raise UserError(
            f"critic: linear has shape {linear.shape} and weight {weight.shape}; give one entry for each of "
            f"{len(data.counts)} responses and {len(data.run)} problems"
        )
    if not (np.isfinite(bound) and bound > 0):
        raise UserError(f"bound: is {bound:g}; give a positive number")
    if not np.isfinite(linear).all():
        raise UserError("critic: the linear term holds a value that is not finite; check the policy")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise UserError("λ: is negative or not finite; give a number of at least 0")
