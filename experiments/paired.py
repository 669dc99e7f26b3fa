"""Compare methods seed by seed: `python experiments/paired.py runs/ten-seeds/spac runs/ten-seeds/dpo runs/other/…/dpo`.

The first folder of seeds is compared with each of the others, over the seeds that both have. Runs of the same seed share their
start policy, so the effects of start and seed cancel in the difference.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from scipy.stats import t as student

from spac_repro.runs.folder import RunFolder, find_complete_runs
from spac_repro.trust.run_scores import RunScores, read_run_scores

REWARD = ("gold", "reward")
PANELS = 6  # per row of a figure


def main(ours: Path, *others: Path) -> None:
    """Print the table of one folder of seeds against others."""
    base = read_runs(ours)
    print(table(label(ours), base, {label(folder): read_runs(folder) for folder in others}))


def read_runs(folder: Path) -> list[RunScores]:
    """The finished runs in a folder of seeds."""
    return [read_run_scores(run.path) for run in find_complete_runs(folder)]


def finished_in_sweep(sweep: Path) -> list[RunFolder]:
    """The finished runs of a sweep over methods and seeds alone, whose folders are METHOD/seed-N."""
    return [run for folder in sorted(sweep.iterdir()) if folder.is_dir() for run in find_complete_runs(folder)]


def label(folder: Path) -> str:
    """The varied settings and the method of a folder of seeds, as a sweep names them."""
    varied = [part for part in folder.parts if "=" in part]
    return " ".join([*varied, folder.name])


def values(runs: Sequence[RunScores], task: str, metric: str, iteration: int) -> list[float]:
    """One score of each run, in the order of the seeds."""
    return [
        score.value
        for run in sorted(runs, key=lambda run: run.seed or 0)
        for score in run.scores[iteration]
        if (score.task, score.metric) == (task, metric)
    ]


def last_iteration(run: RunScores) -> int:
    """The number of a run's last iteration."""
    return max(run.scores)


def best_iteration(run: RunScores) -> int:
    """The iteration with the highest accuracy on held-out preferences: the choice of a user without the gold reward."""
    accuracy = {t: score.value for t, score in run.items() if t > 0 and (score.task, score.metric) == ("heldout", "accuracy")}
    return max(accuracy, key=lambda t: accuracy[t])


def reward(run: RunScores, iteration: int) -> float:
    """The mean gold reward of one iterate of a run."""
    (value,) = values([run], *REWARD, iteration)
    return value


def table(ours: str, base: Sequence[RunScores], others: dict[str, list[RunScores]]) -> str:
    """Markdown table of each method's gold reward, and of the difference to `ours` with its 95 % interval over seeds."""
    head = ["", "iterate", "gold reward", f"{ours} − it, 95 % interval", f"seeds where {ours} is ahead"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for other, runs in others.items():
        for which, choose in (("last", last_iteration), ("best by held-out accuracy", best_iteration)):
            rewards = [reward(run, choose(run)) for run in runs]
            differences = reward_differences(base, runs, choose)
            wins = f"{sum(d > 0 for d in differences)} of {len(differences)}"
            spread = f"{statistics.fmean(rewards):.3f} ± {statistics.stdev(rewards):.3f}"
            cells = [other, which, spread, mean_with_interval(differences), wins]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def reward_differences(base: Sequence[RunScores], runs: Sequence[RunScores], choose: Callable[[RunScores], int]) -> list[float]:
    """The base's gold reward minus that of the run with the same seed, each at the iteration that `choose` returns."""
    by_seed = {run.seed: run for run in base}
    return [reward(by_seed[run.seed], choose(by_seed[run.seed])) - reward(run, choose(run)) for run in runs]


def mean_with_interval(differences: Sequence[float]) -> str:
    """The mean with its 95 % interval (Student's t), as text."""
    n = len(differences)
    mean = statistics.fmean(differences)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def plot_rewards(groups: dict[str, list[RunScores]], path: Path | IO[bytes]) -> None:
    """Plot gold reward over iterates, one panel per group: a thin line per seed, and a thick line for their mean."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "spac-repro", "svg.fonttype": "none"})  # equal runs draw equal files, text as text
    from matplotlib import pyplot

    rows = -(-len(groups) // PANELS)
    columns = -(-len(groups) // rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=(2.2 * columns, 3 * rows), sharey=True, squeeze=False)
    for axis in grid.flat[len(groups) :]:
        axis.remove()
    for axis, (group, runs) in zip(grid.flat, groups.items(), strict=False):
        iterations = list(runs[0].scores)
        curves = [[reward(run, t) for t in iterations] for run in runs]
        for curve in curves:
            axis.plot(iterations, curve, color="0.7", linewidth=0.8)
        axis.plot(iterations, [statistics.fmean(at) for at in zip(*curves, strict=True)], color="#0072B2", linewidth=2)
        axis.set_title(group.replace(" ", "\n"), fontsize=10)
        axis.set(xlabel="iterate", xticks=iterations)
    for row in grid:
        row[0].set_ylabel("gold reward, held-out prompts")
    figure.tight_layout()
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
