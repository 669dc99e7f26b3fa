"""Contextual bandits with a known reward, a known data distribution and settable coverage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spac_repro.errors import UserError

Array = NDArray[np.float64]


def distribution(values: ArrayLike, name: str) -> Array:
    """`values` as float64, checked: finite, non-negative, each last-axis row summing to one (within 1e-9)."""
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
    """X prompts with Y responses each.

    reward   [X, Y] in [0, 1]; the critic's units are f* = scale · reward, which needs a bound R of at least scale
    data     [X, Y] μ(y|x), the distribution both responses of a pair come from
    prompts  [X] the distribution of prompts
    scale    Bradley–Terry scale: P(y ≻ y′) = σ(scale · (reward(y) − reward(y′)))
    slack    how many times wider the critic's bound is than what the truth needs: R = slack · scale
    """

    reward: Array
    data: Array
    prompts: Array
    scale: float = 3.0
    slack: float = 1.0

    def __post_init__(self) -> None:
        reward = np.asarray(self.reward, dtype=np.float64)
        if reward.ndim != 2:
            raise UserError(f"reward: has {reward.ndim} axes; give an array of prompts × responses")
        if not (np.isfinite(reward).all() and reward.min() >= 0 and reward.max() <= 1):
            raise UserError("reward: holds a value outside [0, 1]; rescale it")
        data = distribution(self.data, "data (μ)")
        if data.shape != reward.shape:
            raise UserError(f"data (μ): has shape {data.shape}, reward has {reward.shape}; make them equal")
        prompts = distribution(self.prompts, "prompts")
        if prompts.shape != (reward.shape[0],):
            raise UserError(f"prompts: has shape {prompts.shape}; give one probability for each of {reward.shape[0]} prompts")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise UserError(f"scale: is {self.scale:g}; give a positive number")
        if not (np.isfinite(self.slack) and self.slack >= 1):
            raise UserError(f"slack: is {self.slack:g}; the critic's class must hold the truth, so give at least 1")
        for name, value in (("reward", reward), ("data", data), ("prompts", prompts)):
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        return self.reward.shape[0], self.reward.shape[1]

    @property
    def bound(self) -> float:
        """R, the largest value of the critic's class."""
        return self.slack * self.scale

    @cached_property
    def comparator(self) -> Array:
        """π* [X, Y]: uniform over the best responses of each prompt."""
        best = self.reward >= self.reward.max(axis=1, keepdims=True) - 1e-12
        return best / best.sum(axis=1, keepdims=True)

    def value(self, policy: ArrayLike) -> Array:
        """J(π) = E_x E_π reward, for policies [..., X, Y]; in units of the reward."""
        return np.einsum("...xy,xy,x->...", np.asarray(policy, dtype=np.float64), self.reward, self.prompts)

    def suboptimality(self, policy: ArrayLike) -> Array:
        """J(π*) − J(π), at least 0 up to rounding, for policies [..., X, Y]."""
        return np.maximum(float(self.value(self.comparator)) - self.value(policy), 0.0)

    @property
    def concentrability(self) -> float:
        """C_∞ = max π*(y|x)/μ(y|x), over prompts that occur; ∞ where μ leaves π* uncovered. [derived]"""
        occurs = self.prompts > 0
        return float(_ratio(self.comparator[occurs], self.data[occurs]).max())

    @property
    def chi_square(self) -> float:
        """E_x χ²(π*‖μ) = E_x Σ_y π*²/μ − 1; ∞ where μ leaves π* uncovered."""
        rows = (self.comparator * _ratio(self.comparator, self.data)).sum(axis=1) - 1
        return float(self.prompts[self.prompts > 0] @ rows[self.prompts > 0])

    @property
    def paired_concentrability(self) -> float:
        """√(½ E_x χ²(π*‖μ)), the L2 form for paired differences. [derived]"""
        return float(np.sqrt(max(self.chi_square, 0.0) / 2))

    @property
    def divergence(self) -> float:
        """E_x KL(π*‖μ), which prescribes the leader's step; ∞ where μ leaves π* uncovered."""
        return divergence(self.comparator, self.data, self.prompts)


def _ratio(top: Array, bottom: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(top > 0, top / bottom, 0.0)


def divergence(policy: Array, reference: Array, prompts: Array) -> float:
    """E_x KL(policy‖reference) for [X, Y] policies and [X] prompts, in nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.where(policy > 0, policy * np.log(policy / reference), 0.0).sum(axis=1)
    return float(prompts[prompts > 0] @ rows[prompts > 0])


def crowd(
    *, best: float = 0.3, poor: int = 45, poor_mass: float = 0.1, gap: float = 0.4, floor: float = 0.3,
    scale: float = 3.0, slack: float = 1.0,
) -> Instance:  # fmt: skip
    """One prompt: a best response (reward 1, μ = `best`), four good ones (reward 1 − `gap`) and a crowd of poor ones
    (reward `floor`) that share `poor_mass`. The defaults are the prototype's 50 responses. [tested]"""
    good_mass = 1.0 - best - poor_mass
    if poor < 1 or min(best, poor_mass, good_mass) < 0:
        raise UserError(
            f"crowd: best {best:g}, poor_mass {poor_mass:g}, poor {poor}: give masses that sum to at most 1 and poor ≥ 1"
        )
    reward = np.concatenate([[1.0], np.full(4, 1.0 - gap), np.full(poor, floor)])
    data = np.concatenate([[best], np.full(4, good_mass / 4), np.full(poor, poor_mass / poor)])
    return Instance(reward[None], data[None] / data.sum(), np.ones(1), scale, slack)


def narrowing(pairs: int) -> Instance:
    """`crowd` whose good responses come closer as 2/√pairs: the family on which a rate of 1/√n is what can be hoped for."""
    return crowd(gap=2.0 / np.sqrt(pairs))


def prompted(*, prompts: int = 40, responses: int = 40, seed: int = 7) -> Instance:
    """Many prompts: rewards uniform in [0, 1], μ ∝ exp(reward + normal noise): good and poor ones are common or rare."""
    random = np.random.default_rng(seed)
    reward = random.uniform(size=(prompts, responses))
    weight = np.exp(reward + random.normal(size=reward.shape))
    return Instance(reward, weight / weight.sum(axis=1, keepdims=True), np.full(prompts, 1 / prompts))
