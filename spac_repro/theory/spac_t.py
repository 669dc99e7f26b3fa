"""SPAC-T, the tabular form of SPAC: an exactly solved critic, mirror descent on the policy, and the average of the iterates.

f_t = argmin_{f in [0, R]}  E_{x, y~π_{t−1}} f(x, y) − E_{x, y~μ̂} f(x, y) + λ · L_D(f)
π_t(y|x) ∝ π_{t−1}(y|x) · exp(η f_t(x, y))        (Ji et al. 2024, arXiv 2406.04274) [abstract, reading]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spac_repro.errors import UserError
from spac_repro.theory.critic import solve_critic
from spac_repro.theory.instances import Array
from spac_repro.theory.preference_graph import PreferenceGraph


@dataclass(frozen=True)
class SpacTResult:
    """What SPAC-T returns.

    Attributes:
        mixture: [N] the uniform mixture of π_0 … π_{T−1}.
        checkpoints: The mixture [N] after t iterations, by t; a run of fewer iterations keeps its last mixture.
        critic_sum: [N] Σ_t f_t.
        reward_sum: [P] P(x) · Σ_t ⟨π_{t−1}, f_t⟩.
        gap: The largest Frank–Wolfe gap of any critic that was solved.
    """

    mixture: Array
    checkpoints: dict[int, Array]
    critic_sum: Array
    reward_sum: Array
    gap: float


def prescribed_step_size(kl: Array | float, bound: float, iterations: Array | float) -> Array:
    """Return η = √(8 KL(π*‖π_0) / (R² T)), which minimises `regret_bound` [derived].

    Args:
        kl: KL(π*‖π_0) in nats, a number or [runs].
        bound: R, the upper bound of the critic.
        iterations: T, a number or [runs].
    """
    return np.sqrt(8 * np.asarray(kl) / (bound**2 * np.asarray(iterations)))


def regret_bound(kl: Array | float, bound: float, step_size: Array | float, iterations: Array | float) -> Array:
    """Return KL(π*‖π_0)/(ηT) + ηR²/8, the mirror-descent bound on the policy's average regret [derived].

    Args:
        kl: KL(π*‖π_0) in nats, a number or [runs].
        bound: R, the upper bound of the critic.
        step_size: η, a number or [runs].
        iterations: T, a number or [runs].
    """
    step_size = np.asarray(step_size)
    return np.asarray(kl / (step_size * iterations) + step_size * bound**2 / 8)


def mirror_descent_step(logits: Array, update: Array, data: PreferenceGraph) -> tuple[Array, Array]:
    """Update the policy: π ∝ exp(logits + update) within each problem.

    Args:
        logits: [N] log π_{t−1}, up to a constant in each problem.
        update: [N] η f_t.
        data: The graph that says which responses belong to one problem.

    Returns:
        log π_t and π_t, both [N].
    """
    logits = logits + update
    top = np.maximum.reduceat(logits, data.offsets[:-1])[data.problem]
    logits = logits - top
    logits = logits - np.log(data.problem_sums(np.exp(logits)))[data.problem]
    return logits, np.exp(logits)


def run_spac_t(
    data: PreferenceGraph,
    *,
    preference_weight: ArrayLike,
    step_size: ArrayLike,
    iterations: ArrayLike,
    bound: float,
    initial_policy: Array | None = None,
    checkpoints: Sequence[int] = (),
    pessimism: float = 1.0,
    tolerance: float = 1e-8,
) -> SpacTResult:
    """Run SPAC-T on all runs of a graph at once.

    Args:
        data: The preference graph.
        preference_weight: λ, a number or [runs].
        step_size: η, a number or [runs].
        iterations: T, a number or [runs].
        bound: R, the upper bound of the critic.
        initial_policy: [N] π_0. The default is μ̂: a response without data keeps probability 0; a prompt without data is uniform.
        checkpoints: Iterations t after which the mixture is recorded.
        pessimism: Factor of the critic's term E_π f − E_μ f: 1 is SPAC, 0 maximum likelihood, −1 the critic's sign flipped.
        tolerance: Largest Frank–Wolfe gap at which a critic counts as solved.

    Raises:
        UserError: λ, η, T or π_0 is out of range or has a wrong shape.
    """
    lam, eta, T = _per_run(data, preference_weight, step_size, iterations)
    initial = _checked_policy(data, initial_policy)
    policy_sum, critic_sum = np.zeros_like(initial), np.zeros_like(initial)
    reward_sum, worst_gap, recorded = np.zeros(len(data.run)), 0.0, {}

    live = data  # the problems of runs that have not reached their T
    problems, nodes = np.arange(len(data.run)), np.arange(len(initial))
    policy, values = initial, np.where(data.counts > 0, bound / 2, 0.0)
    with np.errstate(divide="ignore"):
        logits = np.log(initial)
    for t in range(1, int(T.max()) + 1):
        unfinished = T[live.run] >= t
        if not unfinished.all():
            inside = unfinished[live.problem]
            problems, nodes = problems[unfinished], nodes[inside]
            policy, values, logits = policy[inside], values[inside], logits[inside]
            live = live.subset(unfinished)
        linear = pessimism * live.prompt_share[live.problem] * (policy - live.empirical)
        critic = solve_critic(live, linear, lam[live.run] / live.pairs, bound, warm_start=values, tolerance=tolerance)
        values, worst_gap = critic.values, max(worst_gap, float(critic.gap.max()))
        policy_sum[nodes] += policy
        critic_sum[nodes] += values
        reward_sum[problems] += live.prompt_share * live.problem_sums(policy * values)
        if t in checkpoints:
            recorded[t] = policy_sum / np.minimum(T, t)[data.run][data.problem]
        logits, policy = mirror_descent_step(logits, eta[live.run][live.problem] * values, live)
    return SpacTResult(policy_sum / T[data.run][data.problem], recorded, critic_sum, reward_sum, worst_gap)


def _per_run(
    data: PreferenceGraph, preference_weight: ArrayLike, step_size: ArrayLike, iterations: ArrayLike
) -> tuple[Array, Array, Array]:
    """Check λ, η and T and return each as [runs]."""
    runs = int(data.run.max()) + 1
    lam, eta, T = (np.broadcast_to(np.asarray(v, dtype=np.float64), runs) for v in (preference_weight, step_size, iterations))
    if not (np.isfinite(lam).all() and (lam >= 0).all()):
        raise UserError("λ: is negative or not finite; give a number of at least 0")
    if not (np.isfinite(eta).all() and (eta > 0).all()):
        raise UserError("step size η: must be positive and finite; check that μ covers π*")
    if not (T >= 1).all():
        raise UserError("iterations T: must be at least 1")
    return lam, eta, T


def start_policy(data: PreferenceGraph) -> Array:
    """Return SPAC-T's default π_0 [N]: μ̂, and the uniform policy on a prompt without data."""
    size = np.diff(data.offsets)[data.problem]
    return np.where(data.prompt_share[data.problem] > 0, data.empirical, 1 / size)


def _checked_policy(data: PreferenceGraph, policy: Array | None) -> Array:
    if policy is None:
        return start_policy(data)
    if policy.shape != data.counts.shape or not np.isfinite(policy).all() or (policy < 0).any():
        raise UserError(f"initial policy: give a probability for each of {len(data.counts)} responses")
    if np.abs(data.problem_sums(policy) - 1).max() > 1e-9:
        raise UserError("initial policy: does not sum to 1 within every prompt; normalise it")
    return policy


def regret(data: PreferenceGraph, result: SpacTResult, comparator: Array, iterations: ArrayLike) -> Array:
    """Return the policy's average regret (1/T) Σ_t E_x[⟨π* − π_{t−1}, f_t⟩] in each run [runs].

    Args:
        data: The preference graph.
        result: What SPAC-T returned on it.
        comparator: [N] π*.
        iterations: T, a number or [runs].
    """
    runs = int(data.run.max()) + 1
    best = data.prompt_share * data.problem_sums(comparator * result.critic_sum)
    return np.asarray(np.bincount(data.run, best - result.reward_sum, runs) / np.asarray(iterations), dtype=np.float64)


def statistical_error(data: PreferenceGraph, comparator: Array, truth: Array, preference_weight: ArrayLike, bound: float) -> Array:
    """Return the statistical part of the suboptimality bound, computed for the data at hand [runs].

    Let V(f) = E_x[⟨π* − μ̂, f⟩] + λ L_D(f). Since every f_t minimises its own objective [derived],

        J(π*) − J(mixture) ≤ average regret + V(f*) − min_f V(f)      (in the critic's units, over the prompts of the data)

    This function returns V(f*) − min V. The minimum is a critic's problem with π* as the policy. The bound needs π* and f*, so it
    is for the analyst: no learner can compute it.

    Args:
        data: The preference graph.
        comparator: [N] π*.
        truth: [N] f*, the true reward in the critic's units.
        preference_weight: λ, a number or [runs].
        bound: R, the upper bound of the critic.
    """
    runs = int(data.run.max()) + 1
    weight = np.broadcast_to(np.asarray(preference_weight, dtype=np.float64), runs)[data.run] / data.pairs
    linear = data.prompt_share[data.problem] * (comparator - data.empirical)
    lowest = solve_critic(data, linear, weight, bound).objective
    d = truth[data.left] - truth[data.right]
    losses = data.wins * np.logaddexp(0, -d) + data.losses * np.logaddexp(0, d)
    fit = np.bincount(data.problem[data.left], weights=losses, minlength=len(data.run))
    terms = data.problem_sums(linear * truth) + weight * fit - lowest
    return np.asarray(np.bincount(data.run, weights=terms, minlength=runs), dtype=np.float64)
