"""What SPAC-T is compared with, on the same graphs: every policy is [N], normalised within each problem."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from scipy.special import expit

from spac_repro.theory.comparisons import Comparisons
from spac_repro.theory.critic import solve
from spac_repro.theory.game import follow
from spac_repro.theory.instances import Array


def bounded_reward(data: Comparisons, bound: float) -> Array:
    """f̂ in [0, R]: the bounded Bradley–Terry maximum likelihood. What no comparison determines stays at R/2; never seen: 0."""
    return solve(data, np.zeros_like(data.seen), np.ones(len(data.run)), bound, tolerance=1e-10).values


def greedy(data: Comparisons, reward: Array) -> Array:
    """Uniform over all seen responses whose reward is within 1e-6 of the problem's best; a prompt never seen: uniform."""
    seen = (data.seen > 0) | (data.share == 0)[data.problem]
    score = np.where(seen, reward, -np.inf)
    best = score >= np.maximum.reduceat(score, data.first[:-1])[data.problem] - 1e-6
    return best / data.total(best.astype(np.float64))[data.problem]


def tilted(data: Comparisons, reference: Array, reward: Array, beta: float) -> Array:
    """The KL-regularised optimum, reference · exp(reward/β), normalised; reference [N]."""
    with np.errstate(divide="ignore"):
        return follow(np.log(reference), reward / beta, data)[1]


def cloned(data: Comparisons) -> Array:
    """Behaviour cloning of the chosen responses: their shares; a prompt never seen: uniform."""
    met = data.wins + data.losses
    won, others = data.gather(data.wins, data.losses), data.gather(met, met)
    chosen = won + (data.seen - others) / 2  # a response compared with itself is chosen once and rejected once
    chosen = np.where(data.share[data.problem] > 0, chosen, 1.0)
    return chosen / data.total(chosen)[data.problem]


def uncertainty(data: Comparisons, reward: Array, *, ridge: float = 1e-3) -> Array:
    """‖φ(y) − E_μ̂ φ‖ in the inverse information metric [N], φ tabular: the width of pointwise pessimism.

    The information is Σ σ′(f̂_i − f̂_j)(e_i − e_j)(e_i − e_j)ᵀ + ridge · I over the pairs, among the responses seen; others: ∞.
    """
    size = len(data.seen)
    slope = expit(reward[data.left] - reward[data.right])
    info = (data.wins + data.losses) * slope * (1 - slope)
    width = np.full(size, np.inf)
    for k in range(len(data.run)):
        a, b = data.first[k], data.first[k + 1]
        inside = (data.left >= a) & (data.left < b)
        i, j, h = data.left[inside] - a, data.right[inside] - a, info[inside]
        matrix = np.diag(np.full(b - a, ridge))
        np.add.at(matrix, (np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i])), np.concatenate([h, h, -h, -h]))
        seen = np.flatnonzero(data.seen[a:b] > 0)
        inverse = np.linalg.inv(matrix[np.ix_(seen, seen)])
        mean = data.empirical[a:b][seen]
        cross = inverse @ mean
        width[a + seen] = np.sqrt(np.maximum(np.diag(inverse) - 2 * cross + mean @ cross, 0))
    return width


def cautious(data: Comparisons, reward: Array, width: Array, kappa: float) -> Array:
    """Pointwise pessimism: greedy on f̂ − κ · width."""
    lowered = np.where(np.isfinite(width), reward - kappa * np.where(np.isfinite(width), width, 0), -np.inf)
    return greedy(data, lowered)


def dpo(data: Comparisons, reference: Array, beta: float) -> Array:
    """DPO, −mean log σ(β(ρ⁺ − ρ⁻)), on a free softmax: L-BFGS from the reference for each problem, to a gradient of 1e-6."""
    ratio = np.zeros_like(data.seen)
    for k in range(len(data.run)):
        a, b = data.first[k], data.first[k + 1]
        inside = (data.left >= a) & (data.left < b)
        i, j, won, lost = data.left[inside] - a, data.right[inside] - a, data.wins[inside], data.losses[inside]
        if len(i) == 0:
            continue
        pairs = won.sum() + lost.sum()

        def loss(rho: Array, i=i, j=j, won=won, lost=lost, pairs=pairs) -> tuple[float, Array]:  # type: ignore[no-untyped-def]
            d = beta * (rho[i] - rho[j])
            slope = beta * (lost * expit(d) - won * expit(-d)) / pairs
            gradient = np.bincount(i, slope, len(rho)).astype(np.float64) - np.bincount(j, slope, len(rho))
            return float(won @ np.logaddexp(0, -d) + lost @ np.logaddexp(0, d)) / pairs, gradient

        ratio[a:b] = minimize(
            loss, np.zeros(b - a), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-12}
        ).x
    return tilted(data, reference, ratio, 1.0)


def ipo_direction(data: Comparisons) -> Array:
    """The least-norm ρ [N] that minimises Σ (ρ⁺ − ρ⁻ − 1)²: IPO's log-ratio is this divided by 2β."""
    size = len(data.seen)
    met, net = data.wins + data.losses, data.wins - data.losses
    size = len(data.seen)
    degree, own = data.gather(met, met), np.arange(size)
    matrix = csc_array(
        (
            np.concatenate([degree + 1e-8, -met, -met]),
            (np.concatenate([own, data.left, data.right]), np.concatenate([own, data.right, data.left])),
        ),
        shape=(size, size),
    )
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.asarray(factor.solve(data.gather(net, -net)), dtype=np.float64)


def ipo(data: Comparisons, reference: Array, direction: Array, beta: float) -> Array:
    """IPO on a free softmax, exactly: reference · exp(direction / 2β)."""
    return tilted(data, reference, direction / (2 * beta), 1.0)
