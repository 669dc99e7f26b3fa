"""Measure how often verification fails correct runs: fresh seeds, which are in no expected result, each verified alone.

    spac-repro sweep submit fresh_seeds --cluster local --out runs/fresh-seeds
    python experiments/false_alarms.py runs/fresh-seeds

At the level α of the file, about a share α of the runs should fail.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from paired import finished_in_sweep

from spac_repro.runs.verdict import ScoreComparison, Verdict
from spac_repro.trust.verification import verify_runs

HEAD = (
    *("method", "primary row", "expected", "tolerance", "smallest detectable", "effect"),
    *("runs that disagree", "furthest, in tolerances"),
)


def main(sweep: Path) -> None:
    """Print how the runs of a sweep compare with each primary row, and how many fail."""
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for run in finished_in_sweep(sweep):
        verdicts[run.manifest.method].append(verify_runs([run.path]))
    print("| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|", sep="\n")
    for method, of_method in verdicts.items():
        for row in zip(*(primary_rows(verdict, method) for verdict in of_method), strict=True):
            print("| " + " | ".join(cells(row)) + " |")
        failed = sum(verdict.status != "verified" for verdict in of_method)
        print(f"\n{method}: {failed} of {len(of_method)} runs fail; family-wise level {of_method[0].alpha:g}\n")


def primary_rows(verdict: Verdict, method: str) -> list[ScoreComparison]:
    """The comparisons with the primary rows of a method."""
    return [comparison for comparison in verdict.comparisons if comparison.primary and comparison.key.method == method]


def cells(row: Sequence[ScoreComparison]) -> list[str]:
    """The table cells for one primary row, from every run's comparison with it."""
    first = row[0]
    furthest = max(abs(comparison.difference) / comparison.tolerance for comparison in row)
    numbers = [
        f"{value:.4f}" for value in (first.expected, first.tolerance, first.smallest_detectable, first.effect) if value is not None
    ]
    disagree = sum(not comparison.agrees for comparison in row)
    return [first.key.method, f"{first.key.task} {first.key.metric}", *numbers, f"{disagree} of {len(row)}", f"{furthest:.2f}"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
