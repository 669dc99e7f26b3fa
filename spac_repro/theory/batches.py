"""Many runs solved together, SPAC-T's and its rivals': λ, the rivals' grids and how a rival's setting is chosen stand here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spac_repro.theory import baselines, game
from spac_repro.theory.comparisons import Comparisons, draw, stack
from spac_repro.theory.instances import Array, Instance

PENALTY = 2.0  # λ = 2√n; the paired concentrability of the crowds is 1.08, so this is Θ(C√n) with a constant near 2
PESSIMISM = 1.0  # the weight of the critic's term; at −1, the flipped sign, verification must fail
KL_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DPO_GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
IPO_GRID = (0.03, 0.1, 0.3, 1.0, 3.0)
KAPPA_GRID = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Batch:
    """Runs (instance, pairs, seed), each one prompt, solved together. The instances share their bound."""

    runs: Sequence[tuple[Instance, int, int]]

    @cached_property
    def data(self) -> Comparisons:
        return stack([draw(*run) for run in self.runs])

    @property
    def bound(self) -> float:
        return self.runs[0][0].bound

    @property
    def pairs(self) -> Array:
        return np.array([pairs for _, pairs, _ in self.runs], dtype=np.float64)

    def each(self, of: Callable[[Instance], Array]) -> Array:
        """[N] from each run's instance, [1, Y]."""
        return np.concatenate([of(instance).ravel() for instance, _, _ in self.runs])

    def suboptimality(self, policy: Array) -> Array:
        first = self.data.first
        return np.array([
            float(instance.suboptimality(policy[None, first[k] : first[k + 1]])) for k, (instance, _, _) in enumerate(self.runs)
        ])  # fmt: skip

    def play(
        self, *, step: Any = 1.0, rounds: Any, penalty: Any = None, marks: Sequence[int] = (), pessimism: float = 1.0
    ) -> game.Play:
        penalty = PENALTY * np.sqrt(self.pairs) if penalty is None else penalty
        return game.play(
            self.data, penalty=penalty, step=step, rounds=rounds, bound=self.bound, marks=marks, pessimism=PESSIMISM * pessimism
        )

    def start(self) -> Array:
        """KL(π*‖μ̂) [runs], SPAC-T's distance at its start; ∞ for a run that never saw π*."""
        with np.errstate(divide="ignore"):
            return -np.log(self.data.total(self.each(lambda i: i.comparator) * self.data.empirical))

    def excess(self) -> Array:
        """The statistical half of the guarantee [runs], in the critic's units; see `game.excess`."""
        comparator, truth = self.each(lambda i: i.comparator), self.each(lambda i: i.scale * i.reward)
        return game.excess(self.data, comparator, truth, PENALTY * np.sqrt(self.pairs), self.bound)

    def rivals(self, *, but: Sequence[str] = ()) -> dict[str, dict[float | None, Array]]:
        """Each rival's suboptimality [runs] at every setting of its grid (None: it has no setting), `but` for those named."""
        data, score = self.data, self.suboptimality
        reference = self.each(lambda instance: instance.data)
        reward = baselines.bounded_reward(data, self.bound)
        width = baselines.uncertainty(data, reward)
        direction = baselines.ipo_direction(data)
        policies: dict[str, tuple[Sequence[float | None], Callable[[Any], Array]]] = {
            "KL, bounded reward": (KL_GRID, lambda beta: baselines.tilted(data, data.empirical, reward, beta)),
            "pointwise pessimism": (KAPPA_GRID, lambda kappa: baselines.cautious(data, reward, width, kappa)),
            "greedy": ((None,), lambda _: baselines.greedy(data, reward)),
            "DPO": (DPO_GRID, lambda beta: baselines.dpo(data, reference, beta)),
            "IPO": (IPO_GRID, lambda beta: baselines.ipo(data, reference, direction, beta)),
            "cloning of chosen": ((None,), lambda _: baselines.cloned(data)),
        }
        return {
            name: {setting: score(policy(setting)) for setting in grid}
            for name, (grid, policy) in policies.items()
            if name not in but
        }


def best(grid: dict[float | None, Array], shape: tuple[int, int]) -> tuple[Array, list[float | None]]:
    """A rival at the setting that is best for each x in the mean over seeds (chosen with the truth, in the rival's favour)."""
    settings = list(grid)
    values = np.stack([grid[setting].reshape(shape) for setting in settings])
    choice = values.mean(axis=2).argmin(axis=0)
    return values[choice, np.arange(shape[0])], [settings[k] for k in choice]
