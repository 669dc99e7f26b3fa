"""Measure the effect of a setting: `python experiments/ablation.py runs/ten-seeds/spac runs/ten-seeds/beta=*/spac --figure FILE`.

The table has one row per folder of seeds, in the given order. The first folder is the base. Each other folder is compared with it,
over the seeds that both have.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from paired import label, last_iteration, mean_with_interval, plot_rewards, read_runs, reward, reward_differences, values

from spac_repro.trust.run_scores import RunScores


def main() -> None:
    """Print the table, and draw the figure if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="Folder of seeds that the others are compared with.")
    parser.add_argument("others", type=Path, nargs="+", help="Folders of seeds, each with another setting.")
    parser.add_argument("--figure", type=Path, help="Write this figure, with every seed of every setting.")
    arguments = parser.parse_args()
    base = read_runs(arguments.base)
    others = {label(folder): read_runs(folder) for folder in arguments.others}
    print(table(base, others))
    if arguments.figure:
        plot_rewards(others, arguments.figure)


def table(base: Sequence[RunScores], others: dict[str, list[RunScores]]) -> str:
    """Markdown table: gold reward by iterate, spread and divergence of the last iterate, and its paired difference to the base."""
    head = ["", "seeds", "gold reward at iterates 1, 2, …", "the last", "its divergence", "it − base, 95 % interval"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for other, runs in others.items():
        curve = " ".join(f"{statistics.fmean(values(runs, 'gold', 'reward', t)):.3f}" for t in runs[0].scores if t)
        final = [reward(run, last_iteration(run)) for run in runs]
        divergence = statistics.fmean(values(runs, "heldout", "divergence", last_iteration(runs[0])))
        spread = f"{statistics.fmean(final):.3f} ± {statistics.stdev(final):.3f}"
        cells = [other, str(len(runs)), curve, spread, f"{divergence:.2f}", difference(base, runs)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def difference(base: Sequence[RunScores], runs: Sequence[RunScores]) -> str:
    """The mean reward of the runs minus the base's, seed by seed, with its 95 % interval."""
    differences = [-lead for lead in reward_differences(base, runs, last_iteration)]
    return mean_with_interval(differences) if any(differences) else "the same runs"


if __name__ == "__main__":
    main()
