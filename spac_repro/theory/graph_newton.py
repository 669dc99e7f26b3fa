"""Newton's method for convex functions on graphs: a term for each edge, of the difference of its nodes, and a term for each node.

    minimise over x   Σ_edges e(x_i − x_j) + Σ_nodes v(x)

All problems share one sparse factorisation a step, and each has its own step length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

from spac_repro.errors import UserError
from spac_repro.theory.instances import Array
from spac_repro.theory.preference_graph import Index

Term = Callable[[Array], tuple[Array, Array, Array]]
"""Returns the value, the first and the second derivative of each edge's or node's term."""


@dataclass(frozen=True)
class GraphFunction:
    """The function of P problems with N nodes and E edges.

    Attributes:
        problems: P.
        problem: [N] index of the problem that a node belongs to.
        left: [E] node i of an edge.
        right: [E] node j of an edge.
        edge: The edges' terms, of the differences x_i − x_j [E].
        node: The nodes' terms, of x [N]; strictly convex.
    """

    problems: int
    problem: Index
    left: Index
    right: Index
    edge: Term
    node: Term

    def value(self, x: Array) -> Array:
        """Return the function's value [P] at x [N]."""
        edges, nodes = self.edge(x[self.left] - x[self.right])[0], self.node(x)[0]
        sums = np.bincount(self.problem[self.left], edges, self.problems) + np.bincount(self.problem, nodes, self.problems)
        return np.asarray(sums, dtype=np.float64)

    def derivatives(self, x: Array) -> tuple[Array, Array, Array]:
        """Return the gradient [N], and the second derivatives on the diagonal [N] and of the edges' differences [E]."""
        _, slope, bend = self.edge(x[self.left] - x[self.right])
        _, own_slope, own_bend = self.node(x)
        return own_slope + self._sum_edges(slope, -slope), own_bend + self._sum_edges(bend, bend), bend

    def _sum_edges(self, at_left: Array, at_right: Array) -> Array:
        size = len(self.problem)
        sums = np.bincount(self.left, at_left, size) + np.bincount(self.right, at_right, size)
        return np.asarray(sums, dtype=np.float64)


def minimise_on_graph(function: GraphFunction, start: Array, tolerance: float, *, max_steps: int = 500) -> Array:
    """Return the x [N] that minimises the function, by damped Newton steps.

    Args:
        function: The function.
        start: [N] where the search starts.
        tolerance: Stop when no entry of the gradient exceeds this.
        max_steps: Stop after this many steps.

    Raises:
        UserError: The tolerance was not reached.
    """
    x, value = start, function.value(start)
    for _ in range(max_steps):
        gradient, diagonal, bend = function.derivatives(x)
        largest = np.zeros(function.problems)
        np.maximum.at(largest, function.problem, np.abs(gradient))
        unsolved = largest > tolerance
        if not unsolved.any():
            return x
        step = solve_graph_system(diagonal, function.left, function.right, -bend, -gradient)
        slope = np.bincount(function.problem, gradient * step, function.problems)
        length = np.where(unsolved, 1.0, 0.0)
        for _ in range(60):
            trial = x + length[function.problem] * step
            with np.errstate(over="ignore"):
                trial_value = function.value(trial)
            accepted = trial_value <= value + 1e-4 * length * slope + 1e-14 * np.abs(value)
            if accepted.all():
                break
            length = np.where(accepted, length, length / 2)
        x, value = np.where(accepted[function.problem], trial, x), np.where(accepted, trial_value, value)
    raise UserError(
        f"theory: Newton's method took {max_steps} steps and left a gradient of {largest.max():.1e}; use larger settings"
    )


def solve_graph_system(diagonal: Array, left: Index, right: Index, off_diagonal: Array, right_side: Array) -> Array:
    """Solve a symmetric linear system whose matrix has one entry for each edge beside its diagonal.

    Args:
        diagonal: [N] diagonal.
        left: [E] node i of an edge.
        right: [E] node j of an edge.
        off_diagonal: [E] the entries (i, j) and (j, i).
        right_side: [N].

    Returns:
        The solution [N].
    """
    size, own = len(diagonal), np.arange(len(diagonal))
    entries = np.concatenate([diagonal, off_diagonal, off_diagonal])
    places = (np.concatenate([own, left, right]), np.concatenate([own, right, left]))
    factor = splu(
        csc_array((entries, places), shape=(size, size)),
        permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True},
    )  # fmt: skip
    return np.asarray(factor.solve(right_side), dtype=np.float64)
