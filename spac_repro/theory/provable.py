"""The rivals with a guarantee under single-policy coverage, each at its exact optimum over all policies: χPO and RPO.

χPO (Huang et al. 2024, arXiv 2407.13399, algorithm 1) minimises −Σ log σ(clip_2R[β φ(z⁺) − β φ(z⁻)]) with z = π/π_ref and
φ(z) = z + log z, where clip_2R limits its argument to [−2R, 2R].

RPO (Liu et al. 2024, arXiv 2405.16436, equation 4.8) minimises DPO's mean loss plus ηβ E[−log π] over its π_base, which is the
distribution of the chosen responses, as in its remark 5.4 and its experiments.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, wrightomega

from spac_repro.errors import UserError
from spac_repro.theory.graph_newton import GraphFunction, minimise_on_graph
from spac_repro.theory.instances import Array
from spac_repro.theory.preference_graph import PreferenceGraph

RIDGE = 1e-7  # of Σ r²/2 in χPO's problem, whose loss is a sum over pairs: it chooses one of many minima
ROUNDED = 0.01  # part of 2R over which the clip's corner is rounded, so that the loss has a derivative everywhere


def chi_squared_regularized(data: PreferenceGraph, reference: Array, reward: Array, beta: float) -> Array:
    """Return the optimum of reward maximisation with χPO's regularisation by the χ² and the KL divergence.

    The policy maximises E_π[reward] − β E_ref[½(z − 1)² + z log z] with z = π/reference. So φ(z) = (reward − Z)/β, with Z such that
    the policy sums to 1 (Huang et al. 2024, section 3). The inverse of φ is Wright's ω function.

    Args:
        data: The preference graph.
        reference: [N] π_ref; where it is 0, the policy is 0.
        reward: [N] the reward, up to a constant in each problem.
        beta: β.
    """
    offsets, problem = data.offsets[:-1], data.problem
    inside = reference > 0
    # At this Z every z is at least 1, so that the policy sums to 1 or more. The sum is convex and decreasing in Z, so Newton's
    # method never passes the root.
    lowest = np.minimum.reduceat(np.where(inside, reward, np.inf), offsets)
    scaled, z = np.where(inside, (reward - lowest[problem]) / beta, 0.0), np.full(len(offsets), -1.0)
    for _ in range(200):
        ratio = wrightomega(scaled - z[problem])
        excess = data.problem_sums(reference * ratio) - 1
        if np.abs(excess).max() < 1e-13:
            break
        z = z + excess / data.problem_sums(reference * ratio / (1 + ratio))
    policy: Array = reference * ratio
    return policy / data.problem_sums(policy)[problem]


def chipo_reward(data: PreferenceGraph, bound: float) -> Array:
    """Fit χPO's implicit reward β φ(π/π_ref) [N]; `chi_squared_regularized` makes the policy of it, for every β.

    A policy can have any implicit reward up to a constant in each problem [derived]. So the fit is a maximum-likelihood fit of
    rewards whose pairs' differences are clipped to ±2R. The loss of a pair is constant beyond 2R, so there are many minima. This is
    the one of the smallest Σ r². The clip at −2R is left out, which makes the loss convex: there a pair costs 2R or more. Tests
    compare the result with the clipped loss.

    Args:
        data: The preference graph.
        bound: R.
    """
    end = 2 * bound
    start = end * (1 - ROUNDED)
    slope, width = float(expit(-start)), end * ROUNDED

    def loss(d: Array) -> tuple[Array, Array, Array]:
        """Return −log σ(min(d, 2R)) with a rounded corner, and its two derivatives."""
        part = np.clip(d, start, end) - start
        value = np.logaddexp(0, -np.minimum(d, start)) - slope * (part - part**2 / (2 * width))
        up = expit(-d)
        first = np.where(d < start, -up, -slope * (1 - part / width))
        second = np.where(d < start, up * (1 - up), np.where(d < end, slope / width, 0.0))
        return value, first, second

    def edge(d: Array) -> tuple[Array, Array, Array]:
        won, lost = loss(d), loss(-d)
        signed = zip(won, lost, (1, -1, 1), strict=True)
        value, first, second = (data.wins * a + data.losses * sign * b for a, b, sign in signed)
        return value, first, second

    def node(r: Array) -> tuple[Array, Array, Array]:
        return RIDGE * r**2 / 2, RIDGE * r, np.full_like(r, RIDGE)

    function = GraphFunction(len(data.run), data.problem, data.left, data.right, edge, node)
    return minimise_on_graph(function, np.zeros_like(data.counts), 1e-9)


def rpo(data: PreferenceGraph, reference: Array, chosen: Array, eta: float, beta: float, *, tolerance: float = 1e-7) -> Array:
    """Return the policy [N] that minimises RPO's objective. On a prompt without data it is the reference.

    With ρ = log π/π_ref, not normalised, the problem is to minimise Σ log(1 + e^{−β(ρ⁺ − ρ⁻)})/n + ηβ (Σ π_ref e^ρ − ⟨b, ρ⟩),
    where b is the distribution of the chosen responses. A shift of ρ changes the bracket only, which is lowest where
    Σ π_ref e^ρ = 1, so the minimum is RPO's [derived]. A response that was never chosen gets probability 0, since both terms fall
    without end as its ρ does.

    Args:
        data: The preference graph.
        reference: [N] π_ref, positive.
        chosen: [N] b in each problem, as `baselines.sft` returns it.
        eta: η > 0, the weight of the supervised loss in units of β.
        beta: β > 0.
        tolerance: Stop when no derivative of the objective by a ρ exceeds this, in units of ηβ.

    Raises:
        UserError: η or β is not positive.
    """
    if not (np.isfinite([eta, beta]).all() and eta > 0 and beta > 0):
        raise UserError(f"RPO: η is {eta:g} and β is {beta:g}; give positive numbers")
    with_data = (data.prompt_share > 0)[data.problem]
    kept = np.flatnonzero(with_data & (chosen > 0))
    edges = (chosen[data.left] > 0) & (chosen[data.right] > 0)
    position = np.full(len(chosen), -1)
    position[kept] = np.arange(len(kept))
    pairs = np.maximum(data.problem_sums(data.counts) / 2, 1.0)[data.problem[data.left[edges]]]
    wins, losses = data.wins[edges] / pairs / eta / beta, data.losses[edges] / pairs / eta / beta
    b, ref = chosen[kept], reference[kept]

    def edge(d: Array) -> tuple[Array, Array, Array]:
        up = expit(beta * d)
        value = wins * np.logaddexp(0, -beta * d) + losses * np.logaddexp(0, beta * d)
        return value, beta * (losses * up - wins * (1 - up)), beta**2 * (wins + losses) * up * (1 - up)

    def node(rho: Array) -> tuple[Array, Array, Array]:
        policy = ref * np.exp(rho)
        return policy - b * rho, policy - b, policy + 1e-12

    function = GraphFunction(len(data.run), data.problem[kept], position[data.left[edges]], position[data.right[edges]], edge, node)
    policy = np.where(with_data, 0.0, reference)
    policy[kept] = ref * np.exp(minimise_on_graph(function, np.log(b / ref), tolerance))
    return policy / data.problem_sums(policy)[data.problem]
