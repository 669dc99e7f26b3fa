"""The experiments: each a function of seeds alone. Instances, sizes, T, η and fit ranges stand here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spac_repro.theory import batches, game
from spac_repro.theory.batches import KL_GRID, PENALTY, Batch, best
from spac_repro.theory.comparisons import sample
from spac_repro.theory.instances import Array, crowd, narrowing, prompted
from spac_repro.theory.study import Study

Tell = Callable[[int, int], None]


def _add_rivals(study: Study, batch: Batch, panel: str, x: Sequence[float]) -> dict[str, Array]:
    found = {}
    for name, grid in batch.rivals().items():
        found[name], setting = best(grid, (len(x), len(study.seeds)))
        study.curve(name, panel, x, found[name], setting)
    return found


def prototype(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """One prompt, 50 responses: the small table that the method was first tried on."""
    sizes = [300, 1000] if quick else [100, 300, 1000, 3000, 10_000]
    study = Study("prototype", seeds, {"n": sizes, "T": 200, "η": 1.0, "λ/√n": PENALTY})
    batch = Batch([(crowd(), n, seed) for n in sizes for seed in seeds])
    ours = batch.suboptimality(batch.play(rounds=200).mixture).reshape(len(sizes), -1)
    study.curve("SPAC-T", "", sizes, ours)
    tell(1, 2)
    rivals = _add_rivals(study, batch, "", sizes)
    study.compare("", sizes, ours, rivals)
    for k, n in enumerate(sizes):
        study.measure("spac-t", f"suboptimality n={n}", ours[k], effect=0.1 if n == 1000 else None)
        for name in ("KL, bounded reward", "DPO", "greedy"):
            study.measure(name, f"suboptimality n={n}", rivals[name][k])
    return study


def samples(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(a) T grows with n, on a family whose gap shrinks as 2/√n, where 1/√n is what can be hoped for, and on a fixed gap."""
    sizes = [300, 1000] if quick else [100, 300, 1000, 3000, 10_000]
    fitted = [k for k, n in enumerate(sizes) if n >= 300]
    study = Study("samples", seeds, {"n": sizes, "T": "n/10", "η": "prescribed", "λ/√n": PENALTY, "fit from": 300})
    for number, (panel, family) in enumerate({"gap 2/√n": narrowing, "gap 0.4": lambda n: crowd()}.items()):
        batch = Batch([(family(n), n, seed) for n in sizes for seed in seeds])
        rounds, R = batch.pairs // 10, batch.bound
        kl = np.array([instance.divergence for instance, _, _ in batch.runs])
        step = game.prescribed_step(kl, R, rounds)
        shape = (len(sizes), len(seeds))
        ours = batch.suboptimality(batch.play(step=step, rounds=rounds).mixture).reshape(shape)
        study.curve("SPAC-T", panel, sizes, ours)
        constant = batch.suboptimality(batch.play(step=1.0, rounds=rounds).mixture).reshape(shape)
        study.curve("SPAC-T, η = 1", panel, sizes, constant)
        bound = (game.regret_bound(batch.start(), R, step, rounds) + batch.excess()) / batch.runs[0][0].scale
        if np.isfinite(bound).all():  # a seed that never saw π* has none
            study.bounds.append({"panel": panel, "label": "bound", "x": sizes, "y": bound.reshape(shape).mean(axis=1).tolist()})
            if (ours.ravel() > bound + 1e-9).any():
                study.findings.append(f"{panel}: the bound was VIOLATED")
        tell(number + 1, 2)
        chosen = [sizes[k] for k in fitted]
        if panel == "gap 2/√n":  # the prototype has the rivals on the fixed gap, on the same draws
            rivals = _add_rivals(study, batch, panel, sizes)
            study.compare(panel, sizes, ours, rivals)
            study.slope("spac-t", panel, chosen, ours[fitted], effect=0.25)
            study.slope("spac-t, η = 1", panel, chosen, constant[fitted])
            for name in ("KL, bounded reward", "DPO", "greedy"):
                study.slope(name, panel, chosen, rivals[name][fitted])
        study.measure("spac-t", f"suboptimality {panel} n=1000", ours[sizes.index(1000)], effect=0.1)
    return study


def rounds(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(b) T grows at large n: the prescribed step, one run for each T, and a constant one, one run for all T."""
    horizons, pairs = ([10, 30, 100] if quick else [10, 30, 100, 300, 1000]), 30_000
    study = Study("rounds", seeds, {"T": horizons, "n": pairs, "λ/√n": PENALTY, "fit": "all T"})
    instance = crowd()
    R, kl, shape = instance.bound, instance.divergence, (len(horizons), len(seeds))
    batch = Batch([(instance, pairs, seed) for _ in horizons for seed in seeds])
    T = np.repeat(horizons, len(seeds))
    ours = batch.suboptimality(batch.play(step=game.prescribed_step(kl, R, T), rounds=T).mixture).reshape(shape)
    study.curve("SPAC-T, prescribed η", "", horizons, ours)
    tell(1, 2)
    once = Batch([(instance, pairs, seed) for seed in seeds])
    marks = once.play(step=1.0, rounds=horizons[-1], marks=horizons).marks
    constant = np.stack([once.suboptimality(marks[t]) for t in horizons])
    study.curve("SPAC-T, η = 1", "", horizons, constant)
    start, excess = once.start(), once.excess()
    regrets = [game.regret_bound(start, R, game.prescribed_step(kl, R, t), t) for t in horizons]
    bound = (np.stack(regrets) + excess) / instance.scale
    study.bounds.append({"panel": "", "label": "bound", "x": horizons, "y": bound.mean(axis=1).tolist()})
    if (ours > bound + 1e-9).any():
        study.findings.append("the bound was VIOLATED")
    study.slope("spac-t", "prescribed", horizons, ours, effect=0.25)
    study.slope("spac-t", "η = 1", horizons, constant, effect=0.25)
    study.measure("spac-t", "suboptimality prescribed T=100", ours[horizons.index(100)])
    study.findings.append(
        f"the bound's statistical part at n = {pairs}, in units of the reward: {excess.mean() / instance.scale:.4f}"
    )
    return study


def coverage(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(c) C(π*) stays 3.33 while the rest of μ spreads over ever more poor responses."""
    sizes = [300] if quick else [100, 300, 1000]
    crowds = [(45, 0.5), (200, 0.5)] if quick else [(45, 0.1), (45, 0.5), (200, 0.5), (500, 0.5)]
    study = Study("coverage", seeds, {"n": sizes, "T": 100, "η": 1.0, "λ/√n": PENALTY, "poor": crowds})
    for number, (poor, mass) in enumerate(crowds):
        panel = f"{poor} poor responses with {mass:.0%} of μ"
        batch = Batch([(crowd(poor=poor, poor_mass=mass), n, seed) for n in sizes for seed in seeds])
        ours = batch.suboptimality(batch.play(rounds=100).mixture).reshape(len(sizes), -1)
        study.curve("SPAC-T", panel, sizes, ours)
        rivals = _add_rivals(study, batch, panel, sizes)
        study.compare(panel, sizes, ours, rivals)
        tell(number + 1, len(crowds))
        for k, n in enumerate(sizes):
            primary = 0.1 if (poor, n) == (200, 300) else None
            study.measure("spac-t", f"suboptimality {poor} poor, {mass:g} of μ, n={n}", ours[k], effect=primary)
            for name in ("DPO", "greedy", "KL, bounded reward", "pointwise pessimism"):
                study.measure(name, f"less spac-t, {poor} poor, {mass:g} of μ, n={n}", rivals[name][k] - ours[k])
    return study


def uncovered(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(d) μ(π*) itself shrinks at n = 1,000: the promise is void, and SPAC-T must fail too."""
    masses = [0.3, 0.01] if quick else [0.3, 0.1, 0.03, 0.01, 0.003]
    study = Study("uncovered", seeds, {"μ(π*)": masses, "n": 1000, "T": 100, "η": 1.0, "λ/√n": PENALTY})
    batch = Batch([(crowd(best=mass), 1000, seed) for mass in masses for seed in seeds])
    x = [crowd(best=mass).concentrability for mass in masses]
    ours = batch.suboptimality(batch.play(rounds=100).mixture).reshape(len(masses), -1)
    study.curve("SPAC-T", "", x, ours)
    tell(1, 2)
    _add_rivals(study, batch, "", x)
    for k, mass in enumerate(masses):
        study.measure("spac-t", f"suboptimality μ(π*)={mass:g}", ours[k])
    return study


def loose(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(g) The range of the reward is not known: the critic's bound R is 1 to 4 times what the truth needs."""
    sizes = [300] if quick else [100, 300, 1000]
    slacks = [1.0, 2.0] if quick else [1.0, 2.0, 3.0, 4.0]
    study = Study("loose", seeds, {"n": sizes, "R/range": slacks, "T": 100, "η": 1.0, "λ/√n": PENALTY})
    ours, blind, flipped = (np.empty((len(sizes), len(slacks), len(seeds))) for _ in range(3))
    grids: list[dict[str, dict[float | None, Array]]] = []
    for number, slack in enumerate(slacks):
        batch = Batch([(crowd(slack=slack), n, seed) for n in sizes for seed in seeds])
        for found, pessimism in ((ours, 1.0), (blind, 0.0), (flipped, -1.0)):
            mixture = batch.play(rounds=100, pessimism=pessimism).mixture
            found[:, number] = batch.suboptimality(mixture).reshape(len(sizes), -1)
        grids.append(batch.rivals(but=("DPO", "IPO", "cloning of chosen")))
        tell(number + 1, len(slacks))
    for k, n in enumerate(sizes):
        panel = f"n = {n}"
        study.curve("SPAC-T", panel, slacks, ours[k])
        study.curve("SPAC-T without its critic's term", panel, slacks, blind[k])
        study.curve("SPAC-T, sign flipped", panel, slacks, flipped[k])
        rivals = {"SPAC-T without its critic's term": blind[k], "SPAC-T, sign flipped": flipped[k]}
        for name in grids[0]:
            joint = {key: np.stack([grid[name][key].reshape(len(sizes), -1)[k] for grid in grids]) for key in grids[0][name]}
            rivals[name], setting = best(joint, (len(slacks), len(seeds)))
            study.curve(name, panel, slacks, rivals[name], setting)
        study.compare(panel, slacks, ours[k], rivals)
        for j, slack in enumerate(slacks):
            # Without the right sign the loose cells lose 0.4 and more; half of that is what the rows are there to find.
            effect = 0.2 if n == 300 and slack in (2.0, 4.0) else None
            study.measure("spac-t", f"suboptimality R={slack:g}×range, n={n}", ours[k, j], effect=effect)
            gain = rivals["KL, bounded reward"][j] - ours[k, j]
            study.measure("KL, bounded reward", f"less spac-t, R={slack:g}×range, n={n}", gain)
    return study


def tuning(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(e) λ, η and the rivals' own parameters away from their best, on four cells."""
    cells = {
        "crowd, n = 300": (crowd(), 300),
        "crowd, n = 1,000": (crowd(), 1000),
        "200 poor with half of μ, n = 300": (crowd(poor=200, poor_mass=0.5), 300),
        "crowd, weak labels (scale 1), n = 1,000": (crowd(scale=1.0), 1000),
    }
    if quick:
        cells = dict(list(cells.items())[:1])
    penalties, steps = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    study = Study("tuning", seeds, {"λ/√n": penalties, "η": steps, "T": 100})
    means: dict[str, dict[float, list[float]]] = {}
    for number, (panel, (instance, pairs)) in enumerate(cells.items()):
        settings = [(c, 1.0) for c in penalties] + [(PENALTY, eta) for eta in steps]
        many = Batch([(instance, pairs, seed) for _ in settings for seed in seeds])
        lam = np.repeat([c * np.sqrt(pairs) for c, _ in settings], len(seeds))
        eta = np.repeat([e for _, e in settings], len(seeds))
        ours = many.suboptimality(many.play(penalty=lam, step=eta, rounds=100).mixture)
        ours = ours.reshape(len(settings), -1)
        grids: dict[str, tuple[Sequence[float], Array]] = {
            "SPAC-T, λ/√n": (penalties, ours[: len(penalties)]), "SPAC-T, η": (steps, ours[len(penalties) :])
        }  # fmt: skip
        rivals = Batch([(instance, pairs, seed) for seed in seeds]).rivals()
        for name, grid in rivals.items():
            if None not in grid:
                grids[name] = ([float(key or 0) for key in grid], np.stack(list(grid.values())))
        for name, (x, values) in grids.items():
            study.curve(name, panel, x, values)
            for setting, mean in zip(x, values.mean(axis=1), strict=True):
                means.setdefault(name, {}).setdefault(setting, []).append(float(mean))
        tell(number + 1, len(cells))
    for name, by_setting in means.items():
        table = np.array(list(by_setting.values()))
        loss = (table - table.min(axis=0)).max(axis=1)
        fixed = list(by_setting)[int(loss.argmin())]
        good = [setting for setting, row in by_setting.items() if (np.array(row) <= table.min(axis=0) + 0.05).all()]
        within = f"from {min(good):g} to {max(good):g}" if good else "nowhere"
        study.findings.append(
            f"{name}: one setting for all cells, {fixed:g}, loses at most {loss.min():.3f} to the cell's own best; "
            f"within 0.05 of the best in every cell {within}"
        )
    return study


def features(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """SPAC-T with a linear critic over 20 prompts, where what is learnt carries over; π_1 = μ."""
    from spac_repro.theory.linear import featured, play_linear, solve_linear

    sizes, T = ([100] if quick else [100, 300, 1000]), 100
    instance, phi = featured()
    study = Study("features", seeds, {"n": sizes, "T": T, "η": 1.0, "λ/√n": PENALTY, "d": phi.shape[2]})
    found: dict[str, list[Array]] = {"SPAC-T, linear": [], "greedy": []}
    kl: dict[float | None, list[Array]] = {beta: [] for beta in KL_GRID}
    for number, n in enumerate(sizes):
        columns = zip(*(sample(instance, n, seed) for seed in seeds), strict=True)
        x, chosen, rejected = (np.stack(column) for column in columns)
        mixture, _ = play_linear(
            instance, phi, (x, chosen, rejected), penalty=PENALTY * np.sqrt(n), step=1.0, rounds=T, pessimism=batches.PESSIMISM
        )
        found["SPAC-T, linear"].append(instance.suboptimality(mixture))
        flat = np.zeros((len(seeds), *instance.shape))
        reward = solve_linear(phi, flat, phi[x, chosen] - phi[x, rejected], np.ones(len(seeds)), instance.bound).values
        top = reward >= reward.max(axis=2, keepdims=True) - 1e-6
        found["greedy"].append(instance.suboptimality(top / top.sum(axis=2, keepdims=True)))
        for beta in KL_GRID:
            policy = instance.data * np.exp((reward - reward.max(axis=2, keepdims=True)) / beta)
            kl[beta].append(instance.suboptimality(policy / policy.sum(axis=2, keepdims=True)))
        tell(number + 1, len(sizes))
    for name, values in found.items():
        study.curve(name, "", sizes, np.stack(values))
    tilted, setting = best({beta: np.concatenate(values) for beta, values in kl.items()}, (len(sizes), len(seeds)))
    study.curve("KL, bounded reward", "", sizes, tilted, setting)
    study.findings.append(
        f"the optimisation part KL(π*‖μ)/(ηT R) is {instance.divergence / (T * instance.bound):.4f}, C_∞ is "
        f"{instance.concentrability:.0f} and the paired form {instance.paired_concentrability:.1f}"
    )
    for k, n in enumerate(sizes):
        study.measure("spac-t, linear", f"suboptimality n={n}, T={T}", found["SPAC-T, linear"][k])
    return study


def baseline(seeds: list[int], quick: bool, tell: Tell) -> Study:
    """(f) The practical loss on softmax policies: 40 prompts × 40 responses, n = 2,000, 150 Adam steps of 0.05 an iteration."""
    from spac_repro.theory.practical import Method, improve

    methods = {
        "smoothed, baseline both": Method("spac"),
        "smoothed, no baseline": Method("spac", baseline="none"),
        "DPO, β = 1": Method("dpo", 1.0),
        "linear, baseline both": Method("spac", critic="linear"),
        "linear, no baseline": Method("spac", critic="linear", baseline="none"),
        "DPO, β = 0.1": Method("dpo", 0.1),
        "SPIN, β = 1": Method("spin"),
        "smoothed, both, y′ exact": Method("spac", selfplay="exact"),
    }
    if quick:
        methods = dict(list(methods.items())[:2])
    instance, iterations = prompted(), 4
    study = Study("baseline", seeds, {"n": 2000, "iterations": iterations, "steps": 150, "rate": 0.05, "β": 1.0, "λ": 10.0})
    for number, (name, method) in enumerate(methods.items()):
        values = improve(instance, method, pairs=2000, seeds=seeds, iterations=iterations)
        study.curve(name, "", range(iterations + 1), values)
        effect = 0.1 if name in ("smoothed, baseline both", "smoothed, no baseline") else None
        study.measure(name, f"reward after iteration {iterations}", values[-1], effect=effect)
        study.measure(name, "reward, last iteration less first", values[-1] - values[1])
        tell(number + 1, len(methods))
    return study


STUDIES: dict[str, Callable[[list[int], bool, Tell], Study]] = {
    "prototype": prototype,
    "samples": samples,
    "rounds": rounds,
    "coverage": coverage,
    "uncovered": uncovered,
    "loose": loose,
    "tuning": tuning,
    "features": features,
    "baseline": baseline,
}
