"""SPAC-T with linear function approximation: f(x, y) = ⟨w, φ(x, y)⟩ with every value in [0, R].

The critic is shared by all prompts, so it generalises to responses without data. The bound on f is a polytope in w. A primal–dual
interior-point method (Boyd and Vandenberghe 2004, section 11.7) solves the critics of all runs at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from spac_repro.errors import UserError
from spac_repro.theory.instances import Array, Instance


@dataclass(frozen=True)
class LinearCriticSolution:
    """Solved linear critics of B runs.

    Attributes:
        weights: [B, d] w.
        values: [B, X, Y] f in [0, R].
        objective: [B] value of the critic's objective.
        gap: [B] complementarity gap plus stationarity residual of the last iterate.
    """

    weights: Array
    values: Array
    objective: Array
    gap: Array


def linear_instance(*, prompts: int = 20, responses: int = 20, dimension: int = 8, seed: int = 11) -> tuple[Instance, Array]:
    """Build an instance whose reward is linear in features [X, Y, d] (the last is constant) and whose μ favours one half-space."""
    random = np.random.default_rng(seed)
    phi = random.normal(size=(prompts, responses, dimension)) / np.sqrt(dimension)
    phi[..., -1] = 1.0
    reward = phi[..., :-1] @ random.normal(size=dimension - 1)
    reward = (reward - reward.min()) / (reward.max() - reward.min())
    weight = np.exp(reward + 4 * phi[..., 0])
    instance = Instance(reward, weight / weight.sum(axis=1, keepdims=True), np.full(prompts, 1 / prompts))
    return instance, phi


def solve_linear_critic(
    features: Array,
    linear: Array,
    differences: Array,
    weight: Array,
    bound: float,
    *,
    tolerance: float = 1e-8,
    max_steps: int = 100,
) -> LinearCriticSolution:
    """Minimise Σ_xy c·(φᵀw) + weight · Σ_k log(1 + e^{−⟨w, Δ_k⟩}) over w, subject to 0 ≤ φᵀw ≤ R everywhere.

    Args:
        features: [X, Y, d] φ; their span must contain the constants, so include a constant feature.
        linear: [B, X, Y] coefficients c of the linear term.
        differences: [B, n, d] Δ = φ(x, y⁺) − φ(x, y⁻) of every pair.
        weight: [B] λ/n.
        bound: R, the upper bound of the critic.
        tolerance: Stop when every run's gap is at most this.
        max_steps: Stop after this many Newton steps.

    Raises:
        UserError: The features cannot represent a constant, or λ is negative or not finite.
    """
    if not ((weight >= 0).all() and np.isfinite(weight).all()):
        raise UserError("λ: is negative or not finite; give a number of at least 0")
    X, Y, d = features.shape
    phi = features.reshape(X * Y, d)
    B, centre = len(weight), _constant(phi, bound / 2)
    direction = linear.reshape(B, X * Y) @ phi
    w = np.tile(centre, (B, 1))
    f = w @ phi.T
    low, high = np.ones_like(f), np.ones_like(f)  # dual variables of f ≥ 0 and f ≤ R
    differences_t = np.swapaxes(differences, 1, 2)
    for step in range(max_steps + 1):
        up = expit(-(differences @ w[..., None])[..., 0])
        gradient = direction - weight[:, None] * (differences_t @ up[..., None])[..., 0]
        residual = gradient - (low - high) @ phi
        slack = (low * f + high * (bound - f)).sum(axis=1)
        gap = slack + np.abs(residual).sum(axis=1) * bound
        if step == max_steps or (gap <= tolerance).all():
            break
        target = (0.1 * slack / (2 * X * Y))[:, None]
        barrier = low / f + high / (bound - f)
        curvature = weight[:, None] * up * (1 - up)
        hessian = differences_t @ (differences * curvature[..., None])
        hessian = hessian + np.einsum("bk,ki,kj->bij", barrier, phi, phi, optimize=True)
        newton_rhs = gradient - (target / f - target / (bound - f)) @ phi
        ridge = 1e-14 * np.trace(hessian, axis1=1, axis2=2)[:, None, None] * np.eye(d)
        move = np.linalg.solve(hessian + ridge, -newton_rhs[..., None])[..., 0]
        f_move = move @ phi.T
        low_move = target / f - low - low / f * f_move
        high_move = target / (bound - f) - high + high / (bound - f) * f_move
        length = _feasible_length((f, f_move), (bound - f, -f_move), (low, low_move), (high, high_move))
        length = np.where(gap <= tolerance, 0.0, length)[:, None]
        w, low, high = w + length * move, low + length * low_move, high + length * high_move
        f = w @ phi.T
    losses = np.logaddexp(0, -(differences @ w[..., None])[..., 0]).sum(axis=1)
    return LinearCriticSolution(w, np.clip(f, 0, bound).reshape(B, X, Y), (direction * w).sum(axis=1) + weight * losses, gap)


def _constant(phi: Array, value: float) -> Array:
    """Return the w [d] for which φᵀw is `value` everywhere."""
    w = np.linalg.lstsq(phi, np.full(len(phi), value), rcond=None)[0]
    if np.abs(phi @ w - value).max() > 2e-6 * value:
        raise UserError("features: cannot represent a constant reward; add a constant feature")
    return np.asarray(w, dtype=np.float64)


def _feasible_length(*variables: tuple[Array, Array]) -> Array:
    """Return the longest step [B], at most 1, that keeps every variable [B, k] positive, given each variable and its change."""
    length = np.ones(len(variables[0][0]))
    for value, change in variables:
        with np.errstate(divide="ignore", invalid="ignore"):
            feasible = np.where(change < 0, -value / change, np.inf).min(axis=1)
        length = np.minimum(length, 0.99 * feasible)
    return length


def run_spac_t_linear(
    instance: Instance,
    features: Array,
    preferences: tuple[Array, Array, Array],
    *,
    preference_weight: float,
    step_size: float,
    iterations: int,
    pessimism: float = 1.0,
) -> tuple[Array, float]:
    """Run SPAC-T with a linear critic from π_0 = μ, for B runs of n pairs each.

    Args:
        instance: The bandit instance.
        features: [X, Y, d] φ.
        preferences: Indices of prompts, chosen and rejected responses, each [B, n].
        preference_weight: λ.
        step_size: η.
        iterations: T.
        pessimism: Factor of the critic's term E_π f − E_μ f; −1 flips its sign.

    Returns:
        The uniform mixture of π_0 … π_{T−1} [B, X, Y], and the largest gap of any critic that was solved.
    """
    x, chosen, rejected = preferences
    B, n = x.shape
    differences = features[x, chosen] - features[x, rejected]
    X, Y = instance.shape
    empirical = np.stack([
        np.bincount(np.concatenate([x[b] * Y + chosen[b], x[b] * Y + rejected[b]]), minlength=X * Y) / (2 * n) for b in range(B)
    ]).reshape(B, X, Y)  # fmt: skip
    share = empirical.sum(axis=2, keepdims=True)
    policy = np.tile(instance.mu, (B, 1, 1))
    logits, mixture, worst_gap = np.log(np.maximum(policy, 1e-300)), np.zeros((B, X, Y)), 0.0
    for _ in range(iterations):
        mixture += policy / iterations
        linear = pessimism * (share * policy - empirical)
        critic = solve_linear_critic(features, linear, differences, np.full(B, preference_weight / n), instance.bound)
        worst_gap = max(worst_gap, float(critic.gap.max()))
        logits = logits + step_size * critic.values
        logits -= logits.max(axis=2, keepdims=True)
        policy = np.exp(logits)
        policy /= policy.sum(axis=2, keepdims=True)
    return mixture, worst_gap
