"""Function approximation in its simplest honest form: f(x, y) = ⟨w, φ(x, y)⟩ with every value in [0, R].

The class no longer splits by prompt, what is learnt about one response carries over to those never seen, and the bound is
a polytope in w. A primal–dual interior-point method solves it for all runs at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from spac_repro.errors import UserError
from spac_repro.theory.instances import Array, Instance


@dataclass(frozen=True)
class LinearCritic:
    """weights [B, d]; values [B, X, Y] in [0, R]; objective [B]; gap [B], complementarity plus stationarity at the end."""

    weights: Array
    values: Array
    objective: Array
    gap: Array


def featured(*, prompts: int = 20, responses: int = 20, dimension: int = 8, seed: int = 11) -> tuple[Instance, Array]:
    """An instance whose reward is linear in its features [X, Y, d] (the last one constant), and μ that favours a half-space."""
    random = np.random.default_rng(seed)
    phi = random.normal(size=(prompts, responses, dimension)) / np.sqrt(dimension)
    phi[..., -1] = 1.0
    reward = phi[..., :-1] @ random.normal(size=dimension - 1)
    reward = (reward - reward.min()) / (reward.max() - reward.min())
    weight = np.exp(reward + 4 * phi[..., 0])
    instance = Instance(reward, weight / weight.sum(axis=1, keepdims=True), np.full(prompts, 1 / prompts))
    return instance, phi


def solve_linear(
    features: Array,
    linear: Array,
    differences: Array,
    weight: Array,
    bound: float,
    *,
    tolerance: float = 1e-8,
    max_steps: int = 100,
) -> LinearCritic:
    """minimise over w  Σ_xy c·(φᵀw) + weight · Σ_k log(1 + e^{−⟨w, Δ_k⟩})  subject to 0 ≤ φᵀw ≤ R everywhere.

    features [X, Y, d], which must be able to say R/2 everywhere (a constant feature); linear c [B, X, Y];
    differences Δ = φ(x, y⁺) − φ(x, y⁻) [B, n, d]; weight λ/n [B].
    """
    X, Y, d = features.shape
    phi = features.reshape(X * Y, d)
    centre = np.linalg.lstsq(phi, np.full(X * Y, bound / 2), rcond=None)[0]
    if np.abs(phi @ centre - bound / 2).max() > 1e-6 * bound:
        raise UserError("features: cannot say the same value everywhere; add a constant feature")
    if not ((weight >= 0).all() and np.isfinite(weight).all()):
        raise UserError("λ: is negative or not finite; give a number of at least 0")
    B = len(weight)
    direction = linear.reshape(B, X * Y) @ phi
    w = np.tile(centre, (B, 1))
    f = w @ phi.T
    price = 1.0
    low, high = np.full_like(f, price), np.full_like(f, price)
    turned = np.swapaxes(differences, 1, 2)
    for step in range(max_steps + 1):
        up = expit(-(differences @ w[..., None])[..., 0])
        gradient = direction - weight[:, None] * (turned @ up[..., None])[..., 0]
        residual = gradient - (low - high) @ phi
        slack = (low * f + high * (bound - f)).sum(axis=1)
        gap = slack + np.abs(residual).sum(axis=1) * bound
        if step == max_steps or (gap <= tolerance).all():
            break
        target = (0.1 * slack / (2 * X * Y))[:, None]
        barrier = low / f + high / (bound - f)
        curvature = weight[:, None] * up * (1 - up)
        hessian = turned @ (differences * curvature[..., None]) + np.einsum("bk,ki,kj->bij", barrier, phi, phi, optimize=True)
        push = gradient - (target / f - target / (bound - f)) @ phi
        ridge = 1e-14 * np.trace(hessian, axis1=1, axis2=2)[:, None, None] * np.eye(d)
        move = np.linalg.solve(hessian + ridge, -push[..., None])[..., 0]
        slide = move @ phi.T
        low_move = target / f - low - low / f * slide
        high_move = target / (bound - f) - high + high / (bound - f) * slide
        length = np.ones(B)
        for value, change in ((f, slide), (bound - f, -slide), (low, low_move), (high, high_move)):
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(change < 0, -value / change, np.inf).min(axis=1)
            length = np.minimum(length, 0.99 * room)
        length = np.where(gap <= tolerance, 0.0, length)[:, None]
        w, low, high = w + length * move, low + length * low_move, high + length * high_move
        f = w @ phi.T
    losses = np.logaddexp(0, -(differences @ w[..., None])[..., 0]).sum(axis=1)
    return LinearCritic(w, np.clip(f, 0, bound).reshape(B, X, Y), (direction * w).sum(axis=1) + weight * losses, gap)


def play_linear(
    instance: Instance, features: Array, triples: tuple[Array, Array, Array], *, penalty: float, step: float, rounds: int,
    pessimism: float = 1.0,
) -> tuple[Array, float]:  # fmt: skip
    """SPAC-T with a linear critic for B runs of n pairs each: triples (x, chosen, rejected), each [B, n].

    π_1 = μ, which is known here. Returns the uniform mixture [B, X, Y] and the worst gap of any critic on the way.
    """
    x, chosen, rejected = triples
    B, n = x.shape
    differences = features[x, chosen] - features[x, rejected]
    X, Y = instance.shape
    empirical = np.stack([
        np.bincount(np.concatenate([x[b] * Y + chosen[b], x[b] * Y + rejected[b]]), minlength=X * Y) / (2 * n) for b in range(B)
    ]).reshape(B, X, Y)  # fmt: skip
    share = empirical.sum(axis=2, keepdims=True)
    policy = np.tile(instance.data, (B, 1, 1))
    logits, mixture, worst = np.log(np.maximum(policy, 1e-300)), np.zeros((B, X, Y)), 0.0
    for _ in range(rounds):
        mixture += policy / rounds
        linear = pessimism * (share * policy - empirical)
        critic = solve_linear(features, linear, differences, np.full(B, penalty / n), instance.bound)
        worst = max(worst, float(critic.gap.max()))
        logits = logits + step * critic.values
        logits -= logits.max(axis=2, keepdims=True)
        policy = np.exp(logits)
        policy /= policy.sum(axis=2, keepdims=True)
    return mixture, worst
