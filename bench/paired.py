"""Differences seed by seed: `python bench/paired.py runs/ten-seeds/spac runs/ten-seeds/dpo runs/other/reference=previous/dpo …`

The first folder of seeds is compared with each of the others, over the seeds that both have. Runs of the same seed set out from the
same start, so what start and seed do to a score goes out of the difference.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import t as student

from spac_repro.evidence import Evidence, read_run

REWARD = ("gold", "reward")


def main(ours: Path, *others: Path) -> None:
    base = runs(ours)
    print(table(name(ours), base, {name(folder): runs(folder) for folder in others}))


def runs(folder: Path) -> list[Evidence]:
    """The finished runs in a folder of seeds."""
    return [read_run(path.parent) for path in sorted(folder.glob("seed-*/results.json"))]


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
    by_seed = {run.seed: run for run in base}
    for other, its in others.items():
        for which, choose in (("last", last), ("best by held-out accuracy", best)):
            pairs = [(reward(by_seed[run.seed], choose(by_seed[run.seed])), reward(run, choose(run))) for run in its]
            differences = [a - b for a, b in pairs]
            mean, half = interval(differences)
            its_mean, its_sd = statistics.fmean(b for _, b in pairs), statistics.stdev(b for _, b in pairs)
            ahead = f"{sum(d > 0 for d in differences)} of {len(differences)}"
            cells = [other, which, f"{its_mean:.3f} ± {its_sd:.3f}", f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]", ahead]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, by Student's t."""
    n = len(differences)
    return statistics.fmean(differences), float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
