"""Batches of runs: SPAC-T and its rivals on many seeds and sizes at once. λ and the rivals' grids are defined here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spac_repro.theory import baselines, spac_t
from spac_repro.theory.instances import Array, Instance
from spac_repro.theory.preference_graph import PreferenceGraph, concatenate, sample_graph

LAMBDA_SCALE = 2.0  # λ = 2√n; the paired concentrability of the long tails is 1.08, so this is Θ(C√n) with a constant near 2
PESSIMISM = 1.0  # factor of the critic's term; at −1, the flipped sign, verification must fail
KL_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DPO_GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
IPO_GRID = (0.03, 0.1, 0.3, 1.0, 3.0)
KAPPA_GRID = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Batch:
    """Runs (instance, pairs, seed) that are solved together. Each instance has one prompt; all share one bound R."""

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
        """Concatenate `value` [1, Y] of every run's instance: [N]."""
        return np.concatenate([value(instance).ravel() for instance, _, _ in self.runs])

    def suboptimality(self, policy: Array) -> Array:
        """Return J(π*) − J(π) [runs] of a policy [N]."""
        offsets = self.data.offsets
        return np.array([
            float(instance.suboptimality(policy[None, offsets[k] : offsets[k + 1]])) for k, (instance, _, _) in enumerate(self.runs)
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
        """Return KL(π*‖μ̂) [runs] in nats, μ̂ being SPAC-T's π_0; ∞ for a run without a sample of π*."""
        with np.errstate(divide="ignore"):
            return -np.log(self.data.problem_sums(self.per_node(lambda i: i.comparator) * self.data.empirical))

    def statistical_error(self) -> Array:
        """Return the statistical part of the suboptimality bound [runs], in the critic's units; see `spac_t.statistical_error`."""
        comparator, truth = self.per_node(lambda i: i.comparator), self.per_node(lambda i: i.scale * i.reward)
        return spac_t.statistical_error(self.data, comparator, truth, LAMBDA_SCALE * np.sqrt(self.pairs), self.bound)

    def rivals(self, *, exclude: Sequence[str] = ()) -> dict[str, dict[float | None, Array]]:
        """Return the suboptimality [runs] of every rival at every setting of its grid; a rival without a setting has the key None.

        Args:
            exclude: Names of rivals to leave out.
        """
        data, score = self.data, self.suboptimality
        reference = self.per_node(lambda instance: instance.mu)
        reward = baselines.bounded_reward_mle(data, self.bound)
        width = baselines.confidence_width(data, reward)
        ipo_solution = baselines.ipo_solution(data)
        policies: dict[str, tuple[Sequence[float | None], Callable[[Any], Array]]] = {
            "KL, bounded reward": (KL_GRID, lambda beta: baselines.kl_regularized(data, data.empirical, reward, beta)),
            "pointwise pessimism": (KAPPA_GRID, lambda kappa: baselines.pessimistic_greedy(data, reward, width, kappa)),
            "greedy": ((None,), lambda _: baselines.greedy(data, reward)),
            "DPO": (DPO_GRID, lambda beta: baselines.dpo(data, reference, beta)),
            "IPO": (IPO_GRID, lambda beta: baselines.ipo(data, reference, ipo_solution, beta)),
            "SFT on chosen": ((None,), lambda _: baselines.sft(data)),
        }
        return {
            name: {setting: score(policy(setting)) for setting in grid}
            for name, (grid, policy) in policies.items()
            if name not in exclude
        }


def best_setting(grid: dict[float | None, Array], shape: tuple[int, int]) -> tuple[Array, list[float | None]]:
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
