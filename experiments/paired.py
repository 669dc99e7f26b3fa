"""Differences seed by seed: `python experiments/paired.py runs/ten-seeds/spac runs/ten-seeds/dpo runs/other/…/dpo`

The first folder of seeds is compared with each of the others, over the seeds that both have. Runs of the same seed set out from the
same start, so what start and seed do to a score goes out of the difference.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scipy.stats import t as student

from spac_repro.runs.folder import RunFolder, find_complete_runs
from spac_repro.trust.evidence import Evidence, read_run

REWARD = ("gold", "reward")
PANELS = 6  # of a figure side by side


def main(ours: Path, *others: Path) -> None:
    base = runs(ours)
    print(table(name(ours), base, {name(folder): runs(folder) for folder in others}))


def runs(folder: Path) -> list[Evidence]:
    """The finished runs in a folder of seeds."""
    return [read_run(run.path) for run in find_complete_runs(folder)]


def finished_in_sweep(sweep: Path) -> list[RunFolder]:
    """The finished runs of a sweep that varies the method and the seed alone, by METHOD/seed-N."""
    return [run for folder in sorted(sweep.iterdir()) if folder.is_dir() for run in find_complete_runs(folder)]


def name(folder: Path) -> str:
    """What varies, and the method."""
    varied = [part for part in folder.parts if "=" in part]
    return " ".join([*varied, folder.name])


def values(runs: Sequence[Evidence], task: str, metric: str, iteration: int) -> list[float]:
    """One score of each run, in the order of the seeds."""
    return [
        score.value
        for run in sorted(runs, key=lambda run: run.seed or 0)
        for score in run.scores[iteration]
        if (score.task, score.metric) == (task, metric)
    ]


def last(run: Evidence) -> int:
    return max(run.scores)


def best(run: Evidence) -> int:
    """The iterate that a user without the gold reward would choose: of the highest accuracy on held-out preferences."""
    accuracy = {t: score.value for t, score in run.each() if t > 0 and (score.task, score.metric) == ("heldout", "accuracy")}
    return max(accuracy, key=lambda t: accuracy[t])


def reward(run: Evidence, iteration: int) -> float:
    (value,) = values([run], *REWARD, iteration)
    return value


def table(ours: str, base: Sequence[Evidence], others: dict[str, list[Evidence]]) -> str:
    """Gold reward: each one's own, and how far `ours` is ahead, with its 95 % interval over seeds."""
    head = ["", "iterate", "gold reward", f"{ours} − it, 95 % interval", f"seeds where {ours} is ahead"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for other, its in others.items():
        for which, choose in (("last", last), ("best by held-out accuracy", best)):
            rewards = [reward(run, choose(run)) for run in its]
            differences = ahead(base, its, choose)
            wins = f"{sum(d > 0 for d in differences)} of {len(differences)}"
            spread = f"{statistics.fmean(rewards):.3f} ± {statistics.stdev(rewards):.3f}"
            cells = [other, which, spread, interval(differences), wins]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ahead(base: Sequence[Evidence], its: Sequence[Evidence], choose: Callable[[Evidence], int]) -> list[float]:
    """How far the base's gold reward is ahead, seed by seed, each at the iterate that `choose` takes."""
    by_seed = {run.seed: run for run in base}
    return [reward(by_seed[run.seed], choose(by_seed[run.seed])) - reward(run, choose(run)) for run in its]


def interval(differences: Sequence[float]) -> str:
    """Mean and its 95 % interval, by Student's t."""
    n = len(differences)
    mean = statistics.fmean(differences)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def draw(groups: dict[str, list[Evidence]], path: Path) -> None:
    """Gold reward over iterates, a panel for each group: every seed a thin line, their mean a thick one."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "spac-repro", "svg.fonttype": "none"})  # equal runs draw equal files, text as text
    from matplotlib import pyplot

    rows = -(-len(groups) // PANELS)
    columns = -(-len(groups) // rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=(2.2 * columns, 3 * rows), sharey=True, squeeze=False)
    for axis in grid.flat[len(groups) :]:
        axis.remove()
    for axis, (group, its) in zip(grid.flat, groups.items(), strict=False):
        iterations = list(its[0].scores)
        curves = [[reward(run, t) for t in iterations] for run in its]
        for curve in curves:
            axis.plot(iterations, curve, color="0.7", linewidth=0.8)
        axis.plot(iterations, [statistics.fmean(at) for at in zip(*curves, strict=True)], color="#0072B2", linewidth=2)
        axis.set_title(group.replace(" ", "\n"), fontsize=10)
        axis.set(xlabel="iterate", xticks=iterations)
    for row in grid:
        row[0].set_ylabel("gold reward, held-out prompts")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
