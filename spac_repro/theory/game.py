"""SPAC-T: the critic is explicit and solved exactly, the leader follows by mirror descent, the iterates are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spac_repro.errors import UserError
from spac_repro.theory.comparisons import Comparisons
from spac_repro.theory.critic import solve
from spac_repro.theory.instances import Array


@dataclass(frozen=True)
class Play:
    """mixture [N] the uniform mixture of π_1 … π_T; marks {t: [N]} the same after t rounds (a run that ended keeps its last).

    praise [N] Σ_t f_t; earned [P] share · Σ_t ⟨π_t, f_t⟩; gap: the worst certificate of any critic solved on the way.
    """

    mixture: Array
    marks: dict[int, Array]
    praise: Array
    earned: Array
    gap: float


def prescribed_step(divergence: Array | float, bound: float, rounds: Array | float) -> Array:
    """η = √(8 KL(π*‖π_1) / (R² T)), which minimises the regret bound; for one run or for each. [derived]"""
    return np.sqrt(8 * np.asarray(divergence) / (bound**2 * np.asarray(rounds)))


def regret_bound(divergence: Array | float, bound: float, step: Array | float, rounds: Array | float) -> Array:
    """KL(π*‖π_1)/(ηT) + ηR²/8, on the leader's average regret; for one run or for each. [derived]"""
    step = np.asarray(step)
    return np.asarray(divergence / (step * rounds) + step * bound**2 / 8)


def follow(logits: Array, advice: Array, data: Comparisons) -> tuple[Array, Array]:
    """The leader's step: π ∝ exp(logits + advice) within each problem; returns (normalised logits, π), both [N]."""
    logits = logits + advice
    top = np.maximum.reduceat(logits, data.first[:-1])[data.problem]
    logits = logits - top
    logits = logits - np.log(data.total(np.exp(logits)))[data.problem]
    return logits, np.exp(logits)


def play(
    data: Comparisons,
    *,
    penalty: ArrayLike,
    step: ArrayLike,
    rounds: ArrayLike,
    bound: float,
    start: Array | None = None,
    marks: Sequence[int] = (),
    pessimism: float = 1.0,
    tolerance: float = 1e-8,
) -> Play:
    """SPAC-T on all runs at once. `penalty` λ, `step` η and `rounds` T: one for all, or one for each run.

    `start` [N] is π_1; by default the empirical distribution μ̂ of the data, under which a response never seen keeps
    probability 0 (a prompt never seen: uniform). `pessimism` multiplies the critic's term E_π f − E_μ f:
    1 is SPAC, 0 plain maximum likelihood, −1 the critic with its sign flipped.
    """
    runs = int(data.run.max()) + 1
    lam, eta, T = (np.broadcast_to(np.asarray(v, dtype=np.float64), runs) for v in (penalty, step, rounds))
    if not (np.isfinite(lam).all() and (lam >= 0).all()):
        raise UserError("λ: is negative or not finite; give a number of at least 0")
    if not (np.isfinite(eta).all() and (eta > 0).all()):
        raise UserError("step η: must be positive and finite; is π* outside what the data cover?")
    if not (T >= 1).all():
        raise UserError("rounds T: must be at least 1")
    first = _start(data, start)
    sums, praise = np.zeros_like(first), np.zeros_like(first)
    earned, worst, recorded = np.zeros(len(data.run)), 0.0, {}

    live = data
    problems, nodes = np.arange(len(data.run)), np.arange(len(first))
    policy, values = first, np.where(data.seen > 0, bound / 2, 0.0)
    with np.errstate(divide="ignore"):
        logits = np.log(first)
    for t in range(1, int(T.max()) + 1):
        lasting = T[live.run] >= t
        if not lasting.all():
            inside = lasting[live.problem]
            problems, nodes = problems[lasting], nodes[inside]
            policy, values, logits = policy[inside], values[inside], logits[inside]
            live = live.keep(lasting)
        linear = pessimism * live.share[live.problem] * (policy - live.empirical)
        critic = solve(live, linear, lam[live.run] / live.pairs, bound, start=values, tolerance=tolerance)
        values, worst = critic.values, max(worst, float(critic.gap.max()))
        sums[nodes] += policy
        praise[nodes] += values
        earned[problems] += live.share * live.total(policy * values)
        if t in marks:
            recorded[t] = sums / np.minimum(T, t)[data.run][data.problem]
        logits, policy = follow(logits, eta[live.run][live.problem] * values, live)
    return Play(sums / T[data.run][data.problem], recorded, praise, earned, worst)


def _start(data: Comparisons, start: Array | None) -> Array:
    if start is None:
        size = np.diff(data.first)[data.problem]
        return np.where(data.share[data.problem] > 0, data.empirical, 1 / size)
    if start.shape != data.seen.shape or not np.isfinite(start).all() or (start < 0).any():
        raise UserError(f"start: give a probability for each of {len(data.seen)} responses")
    if np.abs(data.total(start) - 1).max() > 1e-9:
        raise UserError("start: does not sum to 1 within every prompt; normalise it")
    return start


def regret(data: Comparisons, result: Play, comparator: Array, rounds: ArrayLike) -> Array:
    """The leader's average regret of each run against `comparator` [N]: (1/T) Σ_t E_x[⟨π* − π_t, f_t⟩]."""
    runs = int(data.run.max()) + 1
    best = data.share * data.total(comparator * result.praise)
    return np.asarray(np.bincount(data.run, best - result.earned, runs) / np.asarray(rounds), dtype=np.float64)


def excess(data: Comparisons, comparator: Array, truth: Array, penalty: ArrayLike, bound: float) -> Array:
    """The statistical half of the guarantee, computed for the data at hand; one number for each run.

    With V(f) = E_x[⟨π* − μ̂, f⟩] + λ L_D(f), every f_t being its own problem's minimum gives [derived]

        J(π*) − J(mixture) ≤ regret/T + V(f*) − min_f V(f)      (in the critic's units, over the prompts of the data)

    and min V is once more a critic, with the comparator as leader. It needs π* [N] and f* [N]: a certificate for
    the analyst, not a quantity that a learner could compute.
    """
    runs = int(data.run.max()) + 1
    weight = np.broadcast_to(np.asarray(penalty, dtype=np.float64), runs)[data.run] / data.pairs
    linear = data.share[data.problem] * (comparator - data.empirical)
    lowest = solve(data, linear, weight, bound).objective
    d = truth[data.left] - truth[data.right]
    losses = data.wins * np.logaddexp(0, -d) + data.losses * np.logaddexp(0, d)
    fit = np.bincount(data.problem[data.left], weights=losses, minlength=len(data.run))
    terms = data.total(linear * truth) + weight * fit - lowest
    return np.asarray(np.bincount(data.run, weights=terms, minlength=runs), dtype=np.float64)
