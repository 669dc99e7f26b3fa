"""Contextual bandits with a known reward, a known data distribution μ and adjustable coverage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spac_repro.errors import UserError

Array = NDArray[np.float64]


def check_distribution(values: ArrayLike, name: str) -> Array:
    """Return `values` as float64 after checking that every row (last axis) is a probability distribution.

    Args:
        values: Probabilities, [..., outcomes].
        name: What error messages call them.

    Raises:
        UserError: The array is empty, or a value is negative or not finite, or a row does not sum to 1 within 1e-9.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.size == 0:
        raise UserError(f"{name}: is empty; give at least one probability")
    if not np.isfinite(array).all():
        raise UserError(f"{name}: holds a value that is not finite; every probability must be a number")
    if (array < 0).any():
        raise UserError(f"{name}: holds a negative probability ({array.min():g}); make every entry at least 0")
    sums = array.sum(axis=-1)
    if np.abs(sums - 1).max() > 1e-9:
        worst = sums.flat[np.abs(sums - 1).argmax()]
        raise UserError(f"{name}: a row sums to {worst:g}, not 1; normalise it")
    return array


@dataclass(frozen=True)
class Instance:
    """A bandit with X prompts and Y responses to each.

    Attributes:
        reward: [X, Y] true reward in [0, 1]. In the critic's units it is f* = scale · reward, so the bound R is at least `scale`.
        mu: [X, Y] μ(y|x), the distribution that both responses of a pair are sampled from.
        prompts: [X] the distribution of prompts.
        scale: Bradley–Terry scale: P(y ≻ y′) = σ(scale · (reward(y) − reward(y′))).
        slack: The critic's bound relative to the range of f*: R = slack · scale.
    """

    reward: Array
    mu: Array
    prompts: Array
    scale: float = 3.0
    slack: float = 1.0

    def __post_init__(self) -> None:
        """Check the arrays and store them as float64."""
        reward = np.asarray(self.reward, dtype=np.float64)
        if reward.ndim != 2:
            raise UserError(f"reward: has {reward.ndim} axes; give an array of prompts × responses")
        if not (np.isfinite(reward).all() and reward.min() >= 0 and reward.max() <= 1):
            raise UserError("reward: holds a value outside [0, 1]; rescale it")
        mu = check_distribution(self.mu, "mu (μ)")
        if mu.shape != reward.shape:
            raise UserError(f"mu (μ): has shape {mu.shape}, reward has {reward.shape}; make them equal")
        prompts = check_distribution(self.prompts, "prompts")
        if prompts.shape != (reward.shape[0],):
            raise UserError(f"prompts: has shape {prompts.shape}; give one probability for each of {reward.shape[0]} prompts")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise UserError(f"scale: is {self.scale:g}; give a positive number")
        if not (np.isfinite(self.slack) and self.slack >= 1):
            raise UserError(f"slack: is {self.slack:g}; the critic's class must contain the true reward, so give at least 1")
        for name, value in (("reward", reward), ("mu", mu), ("prompts", prompts)):
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """(X, Y): number of prompts, number of responses to each."""
        return self.reward.shape[0], self.reward.shape[1]

    @property
    def bound(self) -> float:
        """R, the upper bound of the critic."""
        return self.slack * self.scale

    @cached_property
    def comparator(self) -> Array:
        """π* [X, Y]: uniform over the best responses to each prompt."""
        best = self.reward >= self.reward.max(axis=1, keepdims=True) - 1e-12
        policy: Array = best / best.sum(axis=1, keepdims=True)
        return policy

    def value(self, policy: ArrayLike) -> Array:
        """Return J(π) = E_x E_π reward [...] of policies [..., X, Y], in units of the reward."""
        reward: Array = np.einsum("...xy,xy,x->...", np.asarray(policy, dtype=np.float64), self.reward, self.prompts)
        return reward

    def suboptimality(self, policy: ArrayLike) -> Array:
        """Return J(π*) − J(π) [...] of policies [..., X, Y], in units of the reward; never below 0."""
        return np.maximum(float(self.value(self.comparator)) - self.value(policy), 0.0)

    @property
    def concentrability(self) -> float:
        """Coverage C_∞ = max π*(y|x)/μ(y|x) over prompts that occur; ∞ where μ does not cover π* [derived]."""
        occurs = self.prompts > 0
        return float(_ratio(self.comparator[occurs], self.mu[occurs]).max())

    @property
    def chi_square(self) -> float:
        """Coverage E_x χ²(π*‖μ) = E_x Σ_y π*²/μ − 1; ∞ where μ does not cover π*."""
        rows = (self.comparator * _ratio(self.comparator, self.mu)).sum(axis=1) - 1
        return float(self.prompts[self.prompts > 0] @ rows[self.prompts > 0])

    @property
    def paired_concentrability(self) -> float:
        """Coverage √(½ E_x χ²(π*‖μ)), the L2 form for differences within a pair [derived]."""
        return float(np.sqrt(max(self.chi_square, 0.0) / 2))

    @property
    def kl_to_mu(self) -> float:
        """E_x KL(π*‖μ) in nats, on which the prescribed step size depends; ∞ where μ does not cover π*."""
        return kl_divergence(self.comparator, self.mu, self.prompts)


def _ratio(top: Array, bottom: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(top > 0, top / bottom, 0.0)


def kl_divergence(policy: Array, reference: Array, prompts: Array) -> float:
    """Return E_x KL(policy‖reference) in nats, for policies [X, Y] and the distribution of prompts [X]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(policy > 0, policy * np.log(policy / reference), 0.0).sum(axis=1)
    return float(prompts[prompts > 0] @ rows[prompts > 0])


def long_tail(
    *, best: float = 0.3, poor: int = 45, poor_mass: float = 0.1, gap: float = 0.4, floor: float = 0.3,
    scale: float = 3.0, slack: float = 1.0,
) -> Instance:  # fmt: skip
    """Build an instance with one prompt: a best response, four good ones, and a long tail of poor ones.

    The defaults are the 50 responses of the first experiment [tested].

    Args:
        best: μ of the best response, whose reward is 1.
        poor: Number of poor responses.
        poor_mass: μ of all poor responses together. The good responses share the rest.
        gap: Reward of the best response minus that of a good one.
        floor: Reward of a poor response.
        scale: Bradley–Terry scale.
        slack: R / scale.

    Raises:
        UserError: The masses do not sum to at most 1, or there is no poor response.
    """
    good_mass = 1.0 - best - poor_mass
    if poor < 1 or min(best, poor_mass, good_mass) < 0:
        raise UserError(
            f"long tail: best {best:g}, poor_mass {poor_mass:g}, poor {poor}: give masses that sum to at most 1 and poor ≥ 1"
        )
    reward = np.concatenate([[1.0], np.full(4, 1.0 - gap), np.full(poor, floor)])
    mu = np.concatenate([[best], np.full(4, good_mass / 4), np.full(poor, poor_mass / poor)])
    return Instance(reward[None], mu[None] / mu.sum(), np.ones(1), scale, slack)


def shrinking_gap(pairs: int) -> Instance:
    """Build a `long_tail` with gap 2/√pairs: the family on which 1/√n is the best rate that can be expected."""
    return long_tail(gap=2.0 / np.sqrt(pairs))


def many_prompts(*, prompts: int = 40, responses: int = 40, seed: int = 7) -> Instance:
    """Build an instance with many prompts: rewards uniform in [0, 1], μ ∝ exp(reward + standard normal noise)."""
    random = np.random.default_rng(seed)
    reward = random.uniform(size=(prompts, responses))
    weight = np.exp(reward + random.normal(size=reward.shape))
    return Instance(reward, weight / weight.sum(axis=1, keepdims=True), np.full(prompts, 1 / prompts))
