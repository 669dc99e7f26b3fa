"""The scores of runs by iterate: which iterate a user would take, and curves of the gold reward over iterates."""

import statistics
from collections.abc import Sequence
from typing import IO

from spac_repro.trust.run_scores import RunScores

REWARD = ("gold", "reward")
PANELS = 6  # per row of a figure


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


def plot_rewards(groups: dict[str, list[RunScores]], file: IO[bytes]) -> None:
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
        curves = [[values([run], *REWARD, t)[0] for t in iterations] for run in runs]
        for curve in curves:
            axis.plot(iterations, curve, color="0.7", linewidth=0.8)
        axis.plot(iterations, [statistics.fmean(at) for at in zip(*curves, strict=True)], color="#0072B2", linewidth=2)
        axis.set_title(group.replace(" ", "\n"), fontsize=10)
        axis.set(xlabel="iterate", xticks=iterations)
    for row in grid:
        row[0].set_ylabel("gold reward, held-out prompts")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
