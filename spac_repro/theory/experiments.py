"""The experiments. Instances, sizes, T, η and fit ranges are constants of this module, those of (f) of `practical_experiment`.

Each is a function of the seeds, of `quick` (fewer settings) and of a callback that is told how much is done. The letters are the
sections of docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spac_repro.theory import spac_t, vectorized
from spac_repro.theory.instances import Array, Instance, long_tail, shrinking_gap
from spac_repro.theory.practical_experiment import practical_losses
from spac_repro.theory.preference_graph import sample_preferences
from spac_repro.theory.result import ExperimentResult, setting_text
from spac_repro.theory.vectorized import KL_GRID, LAMBDA_SCALE, Batch, Setting, away_from_best, best_setting

Advance = Callable[[int, int], None]


def _add_rivals(result: ExperimentResult, batch: Batch, panel: str, x: Sequence[float]) -> dict[str, Array]:
    """Add a curve for every rival at its best settings; return their suboptimality [x, seeds] by name."""
    suboptimality, shape = {}, (len(x), len(result.seeds))
    for name, grid in batch.rivals().items():
        suboptimality[name], setting = best_setting(grid, shape)
        result.add_curve(name, panel, x, suboptimality[name], setting, away_from_best(grid, shape, setting))
    return suboptimality


def prototype(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """Compare the methods on one prompt with 50 responses, the first table."""
    sizes = [300, 1000] if quick else [100, 300, 1000, 3000, 10_000]
    result = ExperimentResult("prototype", seeds, {"n": sizes, "T": 200, "η": 1.0, "λ/√n": LAMBDA_SCALE})
    batch = Batch([(long_tail(), n, seed) for n in sizes for seed in seeds])
    ours = batch.suboptimality(batch.run_spac_t(iterations=200).mixture).reshape(len(sizes), -1)
    result.add_curve("SPAC-T", "", sizes, ours)
    advance(1, 2)
    rivals = _add_rivals(result, batch, "", sizes)
    result.add_paired_tests("", sizes, ours, rivals)
    for k, n in enumerate(sizes):
        result.add_measurement("spac-t", f"suboptimality n={n}", ours[k], effect=0.1 if n == 1000 else None)
        for name in ("KL, bounded reward", "DPO", "χPO", "RPO", "greedy"):
            result.add_measurement(name, f"suboptimality n={n}", rivals[name][k])
    return result


def samples(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """(a) Vary n with T = n/10, on a family whose gap shrinks as 2/√n, so that 1/√n is the best rate, and on a fixed gap."""
    sizes = [300, 1000] if quick else [100, 300, 1000, 3000, 10_000]
    fitted = [k for k, n in enumerate(sizes) if n >= 300]
    settings = {"n": sizes, "T": "n/10", "η": "prescribed", "λ/√n": LAMBDA_SCALE, "fit from": 300}
    result = ExperimentResult("samples", seeds, settings)
    families: dict[str, Callable[[int], Instance]] = {"gap 2/√n": shrinking_gap, "gap 0.4": lambda n: long_tail()}
    for number, (panel, family) in enumerate(families.items()):
        batch = Batch([(family(n), n, seed) for n in sizes for seed in seeds])
        iterations, R = batch.pairs // 10, batch.bound
        kl = np.array([instance.kl_to_mu for instance, _, _ in batch.runs])
        step_size = spac_t.prescribed_step_size(kl, R, iterations)
        shape = (len(sizes), len(seeds))
        ours = batch.suboptimality(batch.run_spac_t(step_size=step_size, iterations=iterations).mixture).reshape(shape)
        result.add_curve("SPAC-T", panel, sizes, ours)
        constant = batch.suboptimality(batch.run_spac_t(step_size=1.0, iterations=iterations).mixture).reshape(shape)
        result.add_curve("SPAC-T, η = 1", panel, sizes, constant)
        regret_bound = spac_t.regret_bound(batch.initial_kl(), R, step_size, iterations)
        bound = (regret_bound + batch.statistical_error()) / batch.runs[0][0].scale
        if np.isfinite(bound).all():  # a seed without a sample of π* has no bound
            result.bounds.append({"panel": panel, "label": "bound", "x": sizes, "y": bound.reshape(shape).mean(axis=1).tolist()})
            if (ours.ravel() > bound + 1e-9).any():
                result.findings.append(f"{panel}: the bound was VIOLATED")
        advance(number + 1, 2)
        chosen = [sizes[k] for k in fitted]
        if panel == "gap 2/√n":  # `prototype` shows the rivals on the fixed gap, on the same data
            rivals = _add_rivals(result, batch, panel, sizes)
            result.add_paired_tests(panel, sizes, ours, rivals)
            result.add_slope("spac-t", panel, chosen, ours[fitted], effect=0.25)
            result.add_slope("spac-t, η = 1", panel, chosen, constant[fitted])
            for name in ("KL, bounded reward", "DPO", "χPO", "RPO", "greedy"):
                result.add_slope(name, panel, chosen, rivals[name][fitted])
        result.add_measurement("spac-t", f"suboptimality {panel} n=1000", ours[sizes.index(1000)], effect=0.1)
    return result


def rounds(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """(b) Vary T at large n: with the prescribed step size, one run for each T; with a constant one, one run for all T."""
    horizons, pairs = ([10, 30, 100] if quick else [10, 30, 100, 300, 1000]), 30_000
    result = ExperimentResult("rounds", seeds, {"T": horizons, "n": pairs, "λ/√n": LAMBDA_SCALE, "fit": "all T"})
    instance = long_tail()
    R, kl, shape = instance.bound, instance.kl_to_mu, (len(horizons), len(seeds))
    batch = Batch([(instance, pairs, seed) for _ in horizons for seed in seeds])
    T = np.repeat(horizons, len(seeds))
    ours = batch.suboptimality(batch.run_spac_t(step_size=spac_t.prescribed_step_size(kl, R, T), iterations=T).mixture).reshape(
        shape
    )
    result.add_curve("SPAC-T, prescribed η", "", horizons, ours)
    advance(1, 2)
    constant_batch = Batch([(instance, pairs, seed) for seed in seeds])
    checkpoints = constant_batch.run_spac_t(step_size=1.0, iterations=horizons[-1], checkpoints=horizons).checkpoints
    constant = np.stack([constant_batch.suboptimality(checkpoints[t]) for t in horizons])
    result.add_curve("SPAC-T, η = 1", "", horizons, constant)
    initial_kl, statistical_error = constant_batch.initial_kl(), constant_batch.statistical_error()
    regrets = [spac_t.regret_bound(initial_kl, R, spac_t.prescribed_step_size(kl, R, t), t) for t in horizons]
    bound = (np.stack(regrets) + statistical_error) / instance.scale
    result.bounds.append({"panel": "", "label": "bound", "x": horizons, "y": bound.mean(axis=1).tolist()})
    if (ours > bound + 1e-9).any():
        result.findings.append("the bound was VIOLATED")
    result.add_slope("spac-t", "prescribed", horizons, ours, effect=0.25)
    result.add_slope("spac-t", "η = 1", horizons, constant, effect=0.25)
    result.add_measurement("spac-t", "suboptimality prescribed T=100", ours[horizons.index(100)])
    result.findings.append(
        f"the bound's statistical part at n = {pairs}, in units of the reward: {statistical_error.mean() / instance.scale:.4f}"
    )
    return result


def coverage(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """(c) Keep the coverage C_∞ at 3.33 while the other mass of μ spreads over more and more poor responses."""
    sizes = [300] if quick else [100, 300, 1000]
    poor_settings = [(45, 0.5), (200, 0.5)] if quick else [(45, 0.1), (45, 0.5), (200, 0.5), (500, 0.5)]
    result = ExperimentResult("coverage", seeds, {"n": sizes, "T": 100, "η": 1.0, "λ/√n": LAMBDA_SCALE, "poor": poor_settings})
    for number, (poor, mass) in enumerate(poor_settings):
        panel = f"{poor} poor responses with {mass:.0%} of μ"
        batch = Batch([(long_tail(poor=poor, poor_mass=mass), n, seed) for n in sizes for seed in seeds])
        ours = batch.suboptimality(batch.run_spac_t(iterations=100).mixture).reshape(len(sizes), -1)
        result.add_curve("SPAC-T", panel, sizes, ours)
        rivals = _add_rivals(result, batch, panel, sizes)
        result.add_paired_tests(panel, sizes, ours, rivals)
        advance(number + 1, len(poor_settings))
        for k, n in enumerate(sizes):
            primary = 0.1 if (poor, n) == (200, 300) else None
            result.add_measurement("spac-t", f"suboptimality {poor} poor, {mass:g} of μ, n={n}", ours[k], effect=primary)
            for name in ("DPO", "χPO", "RPO", "greedy", "KL, bounded reward", "pointwise pessimism"):
                result.add_measurement(name, f"less spac-t, {poor} poor, {mass:g} of μ, n={n}", rivals[name][k] - ours[k])
    return result


def uncovered(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """(d) Shrink μ(π*) at n = 1,000: π* is no longer covered, so the guarantee is void and SPAC-T must fail too."""
    masses = [0.3, 0.01] if quick else [0.3, 0.1, 0.03, 0.01, 0.003]
    result = ExperimentResult("uncovered", seeds, {"μ(π*)": masses, "n": 1000, "T": 100, "η": 1.0, "λ/√n": LAMBDA_SCALE})
    batch = Batch([(long_tail(best=mass), 1000, seed) for mass in masses for seed in seeds])
    x = [long_tail(best=mass).concentrability for mass in masses]
    ours = batch.suboptimality(batch.run_spac_t(iterations=100).mixture).reshape(len(masses), -1)
    result.add_curve("SPAC-T", "", x, ours)
    advance(1, 2)
    rivals = _add_rivals(result, batch, "", x)
    result.add_paired_tests("", x, ours, rivals)
    for k, mass in enumerate(masses):
        result.add_measurement("spac-t", f"suboptimality μ(π*)={mass:g}", ours[k])
        for name in ("DPO", "χPO", "RPO"):
            result.add_measurement(name, f"less spac-t, μ(π*)={mass:g}", rivals[name][k] - ours[k])
    return result


def loose(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """(g) Widen the critic's bound R to 1 … 4 times the range of the true reward, as when that range is unknown."""
    sizes = [300] if quick else [100, 300, 1000]
    slacks = [1.0, 2.0] if quick else [1.0, 2.0, 3.0, 4.0]
    result = ExperimentResult("loose", seeds, {"n": sizes, "R/range": slacks, "T": 100, "η": 1.0, "λ/√n": LAMBDA_SCALE})
    ours, without_critic, flipped = (np.empty((len(sizes), len(slacks), len(seeds))) for _ in range(3))
    grids: list[dict[str, dict[Setting, Array]]] = []
    for number, slack in enumerate(slacks):
        batch = Batch([(long_tail(slack=slack), n, seed) for n in sizes for seed in seeds])
        for values, pessimism in ((ours, 1.0), (without_critic, 0.0), (flipped, -1.0)):
            mixture = batch.run_spac_t(iterations=100, pessimism=pessimism).mixture
            values[:, number] = batch.suboptimality(mixture).reshape(len(sizes), -1)
        grids.append(batch.rivals(exclude=("DPO", "IPO", "RPO", "SFT on chosen")))
        advance(number + 1, len(slacks))
    for k, n in enumerate(sizes):
        panel = f"n = {n}"
        result.add_curve("SPAC-T", panel, slacks, ours[k])
        result.add_curve("SPAC-T without its critic's term", panel, slacks, without_critic[k])
        result.add_curve("SPAC-T, sign flipped", panel, slacks, flipped[k])
        rivals = {"SPAC-T without its critic's term": without_critic[k], "SPAC-T, sign flipped": flipped[k]}
        for name in grids[0]:
            joint = {key: np.stack([grid[name][key].reshape(len(sizes), -1)[k] for grid in grids]) for key in grids[0][name]}
            rivals[name], setting = best_setting(joint, (len(slacks), len(seeds)))
            away = away_from_best(joint, (len(slacks), len(seeds)), setting)
            result.add_curve(name, panel, slacks, rivals[name], setting, away)
        result.add_paired_tests(panel, slacks, ours[k], rivals)
        for j, slack in enumerate(slacks):
            # With the wrong sign the cells with a loose bound lose 0.4 or more; the rows must detect half of that.
            effect = 0.2 if n == 300 and slack in (2.0, 4.0) else None
            result.add_measurement("spac-t", f"suboptimality R={slack:g}×range, n={n}", ours[k, j], effect=effect)
            gain = rivals["KL, bounded reward"][j] - ours[k, j]
            result.add_measurement("KL, bounded reward", f"less spac-t, R={slack:g}×range, n={n}", gain)
    return result


def tuning(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """(e) Vary λ, η and the rivals' parameters, on four cells."""
    cells = {
        "long tail, n = 300": (long_tail(), 300),
        "long tail, n = 1,000": (long_tail(), 1000),
        "200 poor with half of μ, n = 300": (long_tail(poor=200, poor_mass=0.5), 300),
        "long tail, weak labels (scale 1), n = 1,000": (long_tail(scale=1.0), 1000),
    }
    if quick:
        cells = dict(list(cells.items())[:1])
    penalties, steps = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    result = ExperimentResult("tuning", seeds, {"λ/√n": penalties, "η": steps, "T": 100})
    by_cell: dict[str, dict[str, dict[Any, Array]]] = {}
    for number, (panel, (instance, pairs)) in enumerate(cells.items()):
        settings = [(c, 1.0) for c in penalties] + [(LAMBDA_SCALE, eta) for eta in steps]
        batch = Batch([(instance, pairs, seed) for _ in settings for seed in seeds])
        lam = np.repeat([c * np.sqrt(pairs) for c, _ in settings], len(seeds))
        eta = np.repeat([e for _, e in settings], len(seeds))
        ours = batch.suboptimality(batch.run_spac_t(preference_weight=lam, step_size=eta, iterations=100).mixture)
        ours = ours.reshape(len(settings), -1)
        rivals = Batch([(instance, pairs, seed) for seed in seeds]).rivals()
        by_cell[panel] = {
            "SPAC-T, λ/√n": dict(zip(penalties, ours, strict=False)),
            "SPAC-T, η": dict(zip(steps, ours[len(penalties) :], strict=True)),
            **{name: grid for name, grid in rivals.items() if None not in grid},
        }
        advance(number + 1, len(cells))
    for name in next(iter(by_cell.values())):
        grids = {panel: grids[name] for panel, grids in by_cell.items()}
        fixed = _add_sensitivity(result, name, grids)
        for panel, grid in grids.items():
            if name == "RPO":  # each of its parameters, with the other one fixed
                for k, parameter in enumerate(("η", "β")):
                    line = {setting[k]: values for setting, values in grid.items() if setting[1 - k] == fixed[1 - k]}
                    result.add_curve(f"RPO, {parameter}", panel, list(line), np.stack(list(line.values())))
            else:
                result.add_curve(name, panel, list(grid), np.stack(list(grid.values())))
    return result


def _add_sensitivity(result: ExperimentResult, name: str, grids: dict[str, dict[Any, Array]]) -> Any:
    """Add a finding about how much one setting for all cells loses, and which settings are good in all; return that setting.

    Args:
        result: The result to add to.
        name: Name of the method.
        grids: Suboptimality [seeds] by cell and setting.
    """
    settings = list(next(iter(grids.values())))
    table = np.array([[grid[setting].mean() for grid in grids.values()] for setting in settings])
    loss = (table - table.min(axis=0)).max(axis=1)
    fixed = settings[int(loss.argmin())]
    good = [setting for setting, row in zip(settings, table, strict=True) if (row <= table.min(axis=0) + 0.05).all()]
    within = f"from {setting_text(min(good))} to {setting_text(max(good))}" if good else "nowhere"
    if isinstance(fixed, tuple):
        within = f"at {len(good)} of {len(settings)} settings"
    result.findings.append(
        f"{name}: one setting for all cells, {setting_text(fixed)}, loses at most {loss.min():.3f} to the cell's own best; "
        f"within 0.05 of the best in every cell {within}"
    )
    return fixed


def features(seeds: list[int], quick: bool, advance: Advance) -> ExperimentResult:
    """Compare the methods with a linear critic, which generalises over 20 prompts; π_0 = μ."""
    from spac_repro.theory.linear_critic import linear_instance, run_spac_t_linear, solve_linear_critic

    sizes, T = ([100] if quick else [100, 300, 1000]), 100
    instance, phi = linear_instance()
    result = ExperimentResult("features", seeds, {"n": sizes, "T": T, "η": 1.0, "λ/√n": LAMBDA_SCALE, "d": phi.shape[2]})
    suboptimality: dict[str, list[Array]] = {"SPAC-T, linear": [], "greedy": []}
    kl: dict[float, list[Array]] = {beta: [] for beta in KL_GRID}
    for number, n in enumerate(sizes):
        columns = zip(*(sample_preferences(instance, n, seed) for seed in seeds), strict=True)
        x, chosen, rejected = (np.stack(column) for column in columns)
        mixture, _ = run_spac_t_linear(
            instance,
            phi,
            (x, chosen, rejected),
            preference_weight=LAMBDA_SCALE * np.sqrt(n),
            step_size=1.0,
            iterations=T,
            pessimism=vectorized.PESSIMISM,
        )
        suboptimality["SPAC-T, linear"].append(instance.suboptimality(mixture))
        flat = np.zeros((len(seeds), *instance.shape))
        reward = solve_linear_critic(phi, flat, phi[x, chosen] - phi[x, rejected], np.ones(len(seeds)), instance.bound).values
        top = reward >= reward.max(axis=2, keepdims=True) - 1e-6
        suboptimality["greedy"].append(instance.suboptimality(top / top.sum(axis=2, keepdims=True)))
        for beta in KL_GRID:
            policy = instance.mu * np.exp((reward - reward.max(axis=2, keepdims=True)) / beta)
            kl[beta].append(instance.suboptimality(policy / policy.sum(axis=2, keepdims=True)))
        advance(number + 1, len(sizes))
    for name, values in suboptimality.items():
        result.add_curve(name, "", sizes, np.stack(values))
    tilted, setting = best_setting({beta: np.concatenate(values) for beta, values in kl.items()}, (len(sizes), len(seeds)))
    result.add_curve("KL, bounded reward", "", sizes, tilted, setting)
    result.findings.append(
        f"the optimization part KL(π*‖μ)/(ηT R) is {instance.kl_to_mu / (T * instance.bound):.4f}, C_∞ is "
        f"{instance.concentrability:.0f} and the paired form {instance.paired_concentrability:.1f}"
    )
    for k, n in enumerate(sizes):
        result.add_measurement("spac-t, linear", f"suboptimality n={n}, T={T}", suboptimality["SPAC-T, linear"][k])
    return result


FUNCTIONS: dict[str, Callable[[list[int], bool, Advance], ExperimentResult]] = {
    "prototype": prototype,
    "samples": samples,
    "rounds": rounds,
    "coverage": coverage,
    "uncovered": uncovered,
    "loose": loose,
    "tuning": tuning,
    "features": features,
    "baseline": practical_losses,
}
