"""The methods that SPAC-T is compared with, on the same graphs. Every policy is [N] and sums to 1 within each problem."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from spac_repro.theory.critic import solve_critic
from spac_repro.theory.graph_newton import solve_graph_system
from spac_repro.theory.instances import Array
from spac_repro.theory.preference_graph import PreferenceGraph
from spac_repro.theory.spac_t import mirror_descent_step


def bounded_reward_mle(data: PreferenceGraph, bound: float) -> Array:
    """Fit the reward f̂ in [0, R] [N] by Bradley–Terry maximum likelihood; R/2 where no comparison determines it, 0 without data."""
    return solve_critic(data, np.zeros_like(data.counts), np.ones(len(data.run)), bound, tolerance=1e-10).values


def greedy(data: PreferenceGraph, reward: Array) -> Array:
    """Return the policy that is uniform over the responses with data whose reward [N] is within 1e-6 of their problem's best.

    On a prompt without data it is uniform over all responses.
    """
    seen = (data.counts > 0) | (data.prompt_share == 0)[data.problem]
    score = np.where(seen, reward, -np.inf)
    best = score >= np.maximum.reduceat(score, data.offsets[:-1])[data.problem] - 1e-6
    return best / data.problem_sums(best.astype(np.float64))[data.problem]


def kl_regularized(data: PreferenceGraph, reference: Array, reward: Array, beta: float) -> Array:
    """Return the optimum of KL-regularised reward maximisation: reference [N] · exp(reward [N] / β), normalised."""
    with np.errstate(divide="ignore"):
        return mirror_descent_step(np.log(reference), reward / beta, data)[1]


def sft(data: PreferenceGraph) -> Array:
    """Return the maximum-likelihood policy of the chosen responses (behaviour cloning); uniform on a prompt without data."""
    games = data.wins + data.losses
    wins, compared = data.node_sums(data.wins, data.losses), data.node_sums(games, games)
    chosen = wins + (data.counts - compared) / 2  # a response compared with itself is chosen once and rejected once
    chosen = np.where(data.prompt_share[data.problem] > 0, chosen, 1.0)
    return chosen / data.problem_sums(chosen)[data.problem]


def confidence_width(data: PreferenceGraph, reward: Array, *, ridge: float = 1e-3) -> Array:
    """Return the width of the confidence interval of f̂ at every response [N]; ∞ for responses without data.

    The width is ‖φ(y) − E_μ̂ φ‖ in the norm of the inverse information matrix, with tabular features φ(y) = e_y (the penalty of
    pessimistic MLE, Zhu et al. 2023, arXiv 2301.11270). The information matrix is
    Σ σ′(f̂_i − f̂_j)(e_i − e_j)(e_i − e_j)ᵀ + ridge · I, summed over the pairs, restricted to responses with data.

    Args:
        data: The preference graph.
        reward: [N] f̂.
        ridge: Multiple of the identity that is added to the information matrix.
    """
    size = len(data.counts)
    slope = expit(reward[data.left] - reward[data.right])
    info = (data.wins + data.losses) * slope * (1 - slope)
    width = np.full(size, np.inf)
    for k in range(len(data.run)):
        a, b = data.offsets[k], data.offsets[k + 1]
        inside = data.edges_of(k)
        i, j, h = data.left[inside] - a, data.right[inside] - a, info[inside]
        matrix = np.diag(np.full(b - a, ridge))
        np.add.at(matrix, (np.concatenate([i, j, i, j]), np.concatenate([i, j, j, i])), np.concatenate([h, h, -h, -h]))
        seen = np.flatnonzero(data.counts[a:b] > 0)
        inverse = np.linalg.inv(matrix[np.ix_(seen, seen)])
        mean = data.empirical[a:b][seen]
        cross = inverse @ mean
        width[a + seen] = np.sqrt(np.maximum(np.diag(inverse) - 2 * cross + mean @ cross, 0))
    return width


def pessimistic_greedy(data: PreferenceGraph, reward: Array, width: Array, kappa: float) -> Array:
    """Return pointwise pessimism's policy: greedy on reward [N] − κ · width [N]."""
    lower_bound = np.where(np.isfinite(width), reward - kappa * np.where(np.isfinite(width), width, 0), -np.inf)
    return greedy(data, lower_bound)


def dpo_reward(data: PreferenceGraph) -> Array:
    """Fit the implicit reward β log π/π_ref [N] of DPO's loss −mean log σ(r⁺ − r⁻) (Rafailov et al. 2023, arXiv 2305.18290).

    For every β, a softmax policy can have any reward up to a constant. So the fit is that of an unbounded reward, the same for all
    β [derived]. Where a response won or lost all its comparisons, the loss has no minimum: L-BFGS starts from 0 in each problem and
    stops at a gradient of 1e-6.
    """
    reward = np.zeros_like(data.counts)
    for k in range(len(data.run)):
        a, b = data.offsets[k], data.offsets[k + 1]
        inside = data.edges_of(k)
        i, j, won, lost = data.left[inside] - a, data.right[inside] - a, data.wins[inside], data.losses[inside]
        if len(i) == 0:
            continue
        pairs = won.sum() + lost.sum()

        def loss(r: Array, i=i, j=j, won=won, lost=lost, pairs=pairs) -> tuple[float, Array]:  # type: ignore[no-untyped-def]
            d = r[i] - r[j]
            slope = (lost * expit(d) - won * expit(-d)) / pairs
            gradient = np.bincount(i, slope, len(r)).astype(np.float64) - np.bincount(j, slope, len(r))
            return float(won @ np.logaddexp(0, -d) + lost @ np.logaddexp(0, d)) / pairs, gradient

        reward[a:b] = minimize(
            loss, np.zeros(b - a), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-12}
        ).x
    return reward


def ipo_solution(data: PreferenceGraph) -> Array:
    """Return the least-norm ρ [N] that minimises Σ (ρ⁺ − ρ⁻ − 1)²; IPO's log-ratio is this divided by 2β."""
    games, net = data.wins + data.losses, data.wins - data.losses
    degree = data.node_sums(games, games)
    return solve_graph_system(degree + 1e-8, data.left, data.right, -games, data.node_sums(net, -net))


def ipo(data: PreferenceGraph, reference: Array, solution: Array, beta: float) -> Array:
    """Return IPO's exact optimum over softmax policies, reference [N] · exp(solution / 2β) (Azar et al. 2023, arXiv 2310.12036)."""
    return kl_regularized(data, reference, solution / (2 * beta), 1.0)
