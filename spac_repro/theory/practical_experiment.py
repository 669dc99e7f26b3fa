"""Experiment (f): the practical losses on tabular softmax policies, with and without SPAC's baseline, and rivals from π_0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from spac_repro.theory.instances import Array, Instance, many_prompts
from spac_repro.theory.practical import LossConfig, train_softmax_policies
from spac_repro.theory.result import ExperimentResult, setting_text
from spac_repro.theory.vectorized import away_from_best, best_setting

PAIRS, ITERATIONS = 2000, 4
AS_SET, AT_BEST = "settings as in the first experiments", "the best of a grid"
METHODS = {
    "smoothed, baseline both": LossConfig("spac"),
    "smoothed, no baseline": LossConfig("spac", critic_baseline="none"),
    "DPO against π_{t−1}, β = 1": LossConfig("dpo", 1.0),
    "DPO against π_0, β = 1": LossConfig("dpo", 1.0, reference_policy="start"),
    "linear, baseline both": LossConfig("spac", critic_loss="linear"),
    "linear, no baseline": LossConfig("spac", critic_loss="linear", critic_baseline="none"),
    "DPO against π_{t−1}, β = 0.1": LossConfig("dpo", 0.1),
    "SPIN, β = 1": LossConfig("spin"),
    "smoothed, both, y′ exact": LossConfig("spac", selfplay="exact"),
}


def _grids(instance: Instance) -> dict[str, dict[Any, LossConfig]]:
    """Return each method's settings: β, or η and β for RPO. All rivals' reference policy is π_0."""
    spac = LossConfig("spac", over_beta=True)
    dpo = LossConfig("dpo", reference_policy="start", over_beta=True)
    chipo, rpo = replace(dpo, loss="chipo", reward_bound=instance.bound), replace(dpo, loss="rpo")
    betas = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    return {
        "SPAC": {beta: replace(spac, beta=beta) for beta in betas[:-1]},
        "DPO": {beta: replace(dpo, beta=beta) for beta in betas},
        "χPO": {beta: replace(chipo, beta=beta) for beta in betas[1:]},
        "RPO": {
            (eta, beta): replace(rpo, beta=beta, sft_weight=eta) for eta in (0.003, 0.03, 0.3) for beta in (0.003, 0.03, 0.3, 3.0)
        },
    }


def practical_losses(seeds: list[int], quick: bool, advance: Callable[[int, int], None]) -> ExperimentResult:
    """(f) Train softmax policies with the practical losses: 40 prompts × 40 responses, n = 2,000, 150 Adam steps an iteration."""
    instance = many_prompts()
    settings = {"n": PAIRS, "iterations": ITERATIONS, "steps": 150, "rate": 0.05, "β": 1.0, "λ": 10.0}
    result = ExperimentResult("baseline", seeds, settings)
    methods = dict(list(METHODS.items())[:2]) if quick else METHODS
    grids = {} if quick else _grids(instance)
    done, total = 0, len(methods) + sum(map(len, grids.values()))

    def train(config: LossConfig) -> Array:
        nonlocal done
        values = train_softmax_policies(instance, config, pairs=PAIRS, seeds=seeds, iterations=ITERATIONS)
        done += 1
        advance(done, total)
        return values

    for name, config in methods.items():
        values = train(config)
        result.add_curve(name, AS_SET, range(ITERATIONS + 1), values)
        effect = 0.1 if name in ("smoothed, baseline both", "smoothed, no baseline") else None
        result.add_measurement(name, f"reward after iteration {ITERATIONS}", values[-1], effect=effect)
        result.add_measurement(name, "reward, last iteration less first", values[-1] - values[1])
    at_best = {name: _add_best(result, name, {key: train(config) for key, config in grid.items()}) for name, grid in grids.items()}
    if at_best:
        ours = at_best.pop("SPAC")
        result.add_paired_tests(AT_BEST, [ITERATIONS], ours, at_best)
    return result


def _add_best(result: ExperimentResult, name: str, grid: Mapping[Any, Array]) -> Array:
    """Add the curves of the setting with the highest last reward, and of the worst that is a factor of ten away from it.

    Args:
        result: The result to add to.
        name: Name of the method.
        grid: Rewards [iterations + 1, seeds] by setting.

    Returns:
        The last rewards [1, seeds] at the best setting.
    """
    lost = {setting: -values[-1] for setting, values in grid.items()}
    shape = (1, len(result.seeds))
    _, (best,) = best_setting(lost, shape)
    off = away_from_best(lost, shape, [best])
    assert off is not None
    far = next(setting for setting, values in lost.items() if np.array_equal(values, off[0]))
    for setting, how in ((best, "best"), (far, "ten times off")):
        result.add_curve(f"{name}, {how}", AT_BEST, range(ITERATIONS + 1), grid[setting])
        letter = "" if isinstance(setting, tuple) else "β "
        result.findings.append(f"{name}, {how}: {letter}{setting_text(setting)}")
    # What is ten times off depends on which setting is best, which may differ between seeds: it is shown and not verified.
    result.add_measurement(f"{name}, best", f"reward after iteration {ITERATIONS}", grid[best][-1])
    return grid[best][-1:]
