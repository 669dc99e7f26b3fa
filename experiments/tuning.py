"""Choose every method's settings on one tuning seed, over at most nine points each.

    python experiments/tuning.py [--out runs/tuning] [--processes 2]

No reported result uses the tuning seed. The start policy is trained once and shared. Each point is one run of `spac-repro train`.
Finished runs are kept, so a repeated command runs only the missing points. The chosen point has the highest gold reward at the last
iterate. The table is written to OUT/tuning.md.
"""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spac_repro.runs.folder import RunFolder

SEED = 100
RATES = (1e-5, 3e-5, 1e-4)
GRIDS: dict[str, Mapping[str, tuple[float, ...]]] = {
    "spac": {"learning_rate": (3e-5, 1e-4), "beta": (0.3, 1.0), "preference_weight": (3.0, 10.0)},
    "dpo": {"learning_rate": RATES, "beta": (0.1, 0.3, 1.0)},
    "ipo": {"learning_rate": RATES, "beta": (0.1, 0.3, 1.0)},
    "spin": {"learning_rate": RATES, "beta": (0.1, 0.3, 1.0)},
    "sft": {"learning_rate": (*RATES, 3e-4)},
}
Point = dict[str, float]


def points(method: str) -> Iterator[Point]:
    """Every combination of a method's settings."""
    grid = GRIDS[method]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def train(out: Path, method: str, point: Point, *arguments: str) -> Path:
    """Run or resume `spac-repro train` for one point, and return its run folder."""
    name = "-".join(f"{key}={value:g}" for key, value in point.items())
    folder = out / method / (name or "start")
    sets = [f"methods.{method}.{key}={value}" for key, value in point.items()] + ["evaluation.suite=none"]
    command = [sys.executable, "-m", "spac_repro", "train", "--method", method, "--seed", str(SEED), "--out", str(folder)]
    command += [part for setting in sets for part in ("--set", setting)]
    done = subprocess.run([*command, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return folder


def gold(folder: Path) -> list[float]:
    """The gold reward of every iterate."""
    iterates = RunFolder.open(folder).results.iterations
    return [score.value for iterate in iterates for score in iterate.scores if score.metric == "reward"]


def main() -> None:
    """Train every point, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--processes", type=int, default=2, help="Number of simultaneous runs, one thread each.")
    arguments = parser.parse_args()
    start = train(arguments.out, "spac", {}, "--until", "0")
    cells = [(method, point) for method in GRIDS for point in points(method)]
    with ThreadPoolExecutor(arguments.processes) as pool:
        folders = list(pool.map(lambda cell: train(arguments.out, *cell, "--start-from", str(start)), cells))
    lines = ["| method | settings | start | iterations 1, 2, … | chosen |", "| --- | --- | --- | --- | --- |"]
    best = {method: max(gold(f)[-1] for (m, _), f in zip(cells, folders, strict=True) if m == method) for method in GRIDS}
    for (method, point), folder in zip(cells, folders, strict=True):
        start_reward, *rewards = gold(folder)
        settings = ", ".join(f"{key} {value:g}" for key, value in point.items())
        chosen = "✓" if rewards[-1] == best[method] else ""
        lines.append(f"| {method} | {settings} | {start_reward:.3f} | {' '.join(f'{r:.3f}' for r in rewards)} | {chosen} |")
    table = "\n".join(lines) + "\n"
    (arguments.out / "tuning.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
