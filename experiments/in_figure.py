"""How far a run's gold rewards are from the nearest curve of a figure: was the run among those that the figure shows?

    python experiments/in_figure.py /tmp/lost-run-1 docs/figures/ten-seeds.svg

A figure has the points of its curves in its own units. A reward is a linear function of them, the same for all points of a panel,
so two curves are equal if one is a linear function of the other. Three iterations or more are needed: a linear function fits any
two points.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spac_repro.runs.folder import RunFolder

CURVE = re.compile(r'<path d="(M [^"]+)"[^>]*style="fill: none')


def curves(svg: str) -> Iterator[list[float]]:
    """The heights of the points of every curve that matplotlib drew."""
    for match in CURVE.finditer(svg):
        yield [float(point.split()[2]) for point in match[1].strip().splitlines() if len(point.split()) == 3]


def distance(rewards: Sequence[float], heights: Sequence[float]) -> float:
    """The largest distance of the rewards from the linear function of the heights that is closest to them."""
    design = np.column_stack([heights, np.ones(len(heights))])
    solution, *_ = np.linalg.lstsq(design, np.array(rewards), rcond=None)
    return float(np.abs(design @ solution - rewards).max())


def nearest(rewards: Sequence[float], svg: str) -> float:
    """The distance of the curve that is closest to the rewards."""
    own = [heights for heights in curves(svg) if len(heights) == len(rewards) and len(set(heights)) > 1]
    return min(distance(rewards, heights) for heights in own)


def main() -> None:
    """Print the distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    scores = [score for iterate in RunFolder(arguments.run).results.iterations for score in iterate.scores]
    rewards = [score.value for score in scores if (score.task, score.metric) == ("gold", "reward")]
    print(f"{nearest(rewards, arguments.figure.read_text()):.1e}")


if __name__ == "__main__":
    main()
