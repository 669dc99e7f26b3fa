"""What a setting does: `python experiments/ablation.py runs/ten-seeds/spac runs/ten-seeds/beta=*/spac --figure FILE`

A row per folder of seeds, in the order given; the first folder is the one that the others are compared with, over the seeds
that both have.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from paired import ahead, draw, interval, last, name, reward, runs, values

from spac_repro.trust.evidence import Evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="Folder of seeds that the others are compared with.")
    parser.add_argument("others", type=Path, nargs="+", help="Folders of seeds, each with another setting.")
    parser.add_argument("--figure", type=Path, help="The figure to draw: every seed of every setting.")
    arguments = parser.parse_args()
    base = runs(arguments.base)
    others = {name(folder): runs(folder) for folder in arguments.others}
    print(table(base, others))
    if arguments.figure:
        draw(others, arguments.figure)


def table(base: Sequence[Evidence], others: dict[str, list[Evidence]]) -> str:
    """Gold reward by iterate, the last one's spread and divergence, and its difference from the base seed by seed."""
    head = ["", "seeds", "gold reward at iterates 1, 2, …", "the last", "its divergence", "it − base, 95 % interval"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for other, its in others.items():
        curve = " ".join(f"{statistics.fmean(values(its, 'gold', 'reward', t)):.3f}" for t in its[0].scores if t)
        final = [reward(run, last(run)) for run in its]
        divergence = statistics.fmean(values(its, "heldout", "divergence", last(its[0])))
        spread = f"{statistics.fmean(final):.3f} ± {statistics.stdev(final):.3f}"
        cells = [other, str(len(its)), curve, spread, f"{divergence:.2f}", difference(base, its)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def difference(base: Sequence[Evidence], its: Sequence[Evidence]) -> str:
    differences = [-lead for lead in ahead(base, its, last)]
    return interval(differences) if any(differences) else "the same runs"


if __name__ == "__main__":
    main()
