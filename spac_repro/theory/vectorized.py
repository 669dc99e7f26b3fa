"""Batches of runs: SPAC-T and its rivals on many seeds and sizes at once. λ and the rivals' grids are defined here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from spac_repro.theory import baselines, provable, spac_t
from spac_repro.theory.instances import Array, Instance
from spac_repro.theory.preference_graph import PreferenceGraph, concatenate, sample_graph

LAMBDA_SCALE = 2.0  # λ = 2√n; the paired concentrability of the long tails is 1.08, so this is Θ(C√n) with a constant near 2
PESSIMISM = 1.0  # factor of the critic's term; at −1, the flipped sign, verification must fail
KL_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
CHI_SQUARED_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
DPO_GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
IPO_GRID = (0.03, 0.1, 0.3, 1.0, 3.0)
KAPPA_GRID = (0.1, 0.3, 1.0, 3.0)
RPO_GRID = tuple((eta, beta) for eta in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0) for beta in (0.001, 0.01, 0.1, 1.0, 10.0))

Setting = float | tuple[float, float] | None
"""A rival's setting: one parameter, two (RPO's η and β), or none."""


@dataclass(frozen=True)
class Batch:
    """Runs (instance, pairs, seed) that are solved together. All instances share one bound R."""

    runs: Sequence[tuple[Instance, int, int]]

    @cached_property
    def data(self) -> PreferenceGraph:
        """The preference graph of all runs."""
        return concatenate([sample_graph(*run) for run in self.runs])

    @property
    def bound(self) -> float:
        """R, the upper bound of the critic."""
        return self.runs[0][0].bound

    @property
    def pairs(self) -> Array:
        """[runs] number n of preference pairs."""
        return np.array([pairs for _, pairs, _ in self.runs], dtype=np.float64)

    def per_node(self, value: Callable[[Instance], Array]) -> Array:
        """Concatenate `value` [X, Y] of every run's instance: [N]."""
        return np.concatenate([value(instance).ravel() for instance, _, _ in self.runs])

    def suboptimality(self, policy: Array) -> Array:
        """Return J(π*) − J(π) [runs] of a policy [N]."""
        ends = np.cumsum([instance.reward.size for instance, _, _ in self.runs])
        parts = np.split(policy, ends[:-1])
        return np.array([
            float(instance.suboptimality(part.reshape(instance.shape)))
            for (instance, _, _), part in zip(self.runs, parts, strict=True)
        ])  # fmt: skip

    def run_spac_t(
        self,
        *,
        step_size: Any = 1.0,
        iterations: Any,
        preference_weight: Any = None,
        checkpoints: Sequence[int] = (),
        pessimism: float = 1.0,
    ) -> spac_t.SpacTResult:
        """Run SPAC-T on all runs, with λ = 2√n by default; the arguments are those of `spac_t.run_spac_t`."""
        preference_weight = LAMBDA_SCALE * np.sqrt(self.pairs) if preference_weight is None else preference_weight
        return spac_t.run_spac_t(
            self.data,
            preference_weight=preference_weight,
            step_size=step_size,
            iterations=iterations,
            bound=self.bound,
            checkpoints=checkpoints,
            pessimism=PESSIMISM * pessimism,
        )

    def initial_kl(self) -> Array:
        """Return KL(π*‖μ̂) [runs] in nats, μ̂ being SPAC-T's π_0; ∞ for a run without a sample of π*. Instances have one prompt."""
        with np.errstate(divide="ignore"):
            return -np.log(self.data.problem_sums(self.per_node(lambda i: i.comparator) * self.data.empirical))

    def statistical_error(self) -> Array:
        """Return the statistical part of the suboptimality bound [runs], in the critic's units; see `spac_t.statistical_error`."""
        comparator, truth = self.per_node(lambda i: i.comparator), self.per_node(lambda i: i.scale * i.reward)
        return spac_t.statistical_error(self.data, comparator, truth, LAMBDA_SCALE * np.sqrt(self.pairs), self.bound)

    def rivals(self, *, exclude: Sequence[str] = ()) -> dict[str, dict[Setting, Array]]:
        """Return the suboptimality [runs] of every rival at every setting of its grid; a rival without a setting has the key None.

        Args:
            exclude: Names of rivals to leave out.
        """
        data, score = self.data, self.suboptimality
        mu, start = self.per_node(lambda instance: instance.mu), spac_t.start_policy(data)
        reward = baselines.bounded_reward_mle(data, self.bound)
        width = cache(lambda: baselines.confidence_width(data, reward))
        chosen = baselines.sft(data)
        dpo_reward = cache(lambda: baselines.dpo_reward(data))
        chipo_reward = cache(lambda: provable.chipo_reward(data, self.bound))
        ipo_solution = cache(lambda: baselines.ipo_solution(data))
        policies: dict[str, tuple[Sequence[Setting], Callable[[Any], Array]]] = {
            "KL, bounded reward": (KL_GRID, lambda beta: baselines.kl_regularized(data, start, reward, beta)),
            "χ², bounded reward": (CHI_SQUARED_GRID, lambda beta: provable.chi_squared_regularized(data, start, reward, beta)),
            "pointwise pessimism": (KAPPA_GRID, lambda kappa: baselines.pessimistic_greedy(data, reward, width(), kappa)),
            "greedy": ((None,), lambda _: baselines.greedy(data, reward)),
            "χPO": (CHI_SQUARED_GRID, lambda beta: provable.chi_squared_regularized(data, mu, chipo_reward(), beta)),
            "RPO": (RPO_GRID, lambda setting: provable.rpo(data, mu, chosen, *setting)),
            "DPO": (DPO_GRID, lambda beta: baselines.kl_regularized(data, mu, dpo_reward(), beta)),
            "IPO": (IPO_GRID, lambda beta: baselines.ipo(data, mu, ipo_solution(), beta)),
            "SFT on chosen": ((None,), lambda _: chosen),
        }
        return {
            name: {setting: score(policy(setting)) for setting in grid}
            for name, (grid, policy) in policies.items()
            if name not in exclude
        }


def best_setting(grid: Mapping[Any, Array], shape: tuple[int, int]) -> tuple[Array, list[Any]]:
    """Choose, for each x, the setting with the lowest mean over seeds. This uses the true reward, which favours the rival.

    Args:
        grid: Suboptimality [x · seeds] by setting.
        shape: (number of x, number of seeds).

    Returns:
        Suboptimality [x, seeds] at the chosen settings, and the settings.
    """
    settings = list(grid)
    values = np.stack([grid[setting].reshape(shape) for setting in settings])
    choice = values.mean(axis=2).argmin(axis=0)
    return values[choice, np.arange(shape[0])], [settings[k] for k in choice]


def away_from_best(grid: Mapping[Any, Array], shape: tuple[int, int], chosen: Sequence[Any]) -> Array | None:
    """Return, for each x, the suboptimality [x, seeds] where one parameter is a tenth or ten times the chosen one.

    It is the worst of these settings by the mean over seeds, among those in the grid. None for a rival without a setting.

    Args:
        grid: Suboptimality [x · seeds] by setting.
        shape: (number of x, number of seeds).
        chosen: The setting at each x.
    """
    if None in grid:
        return None
    rows = []
    for x, best in enumerate(chosen):
        near = [grid[setting].reshape(shape)[x] for setting in grid if _differs_by_ten(setting, best)]
        rows.append(max(near, key=lambda values: float(values.mean())))
    return np.stack(rows)


def _differs_by_ten(setting: Any, other: Any) -> bool:
    """Return whether exactly one parameter differs, by a factor of ten."""
    ratios = np.atleast_1d(setting) / np.atleast_1d(other)
    differing = ratios[~np.isclose(ratios, 1.0)]
    return len(differing) == 1 and bool(np.isclose(differing, 10.0) | np.isclose(differing, 0.1))
