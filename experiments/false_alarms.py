"""How often verification cries wolf: honest runs of seeds that no expected result is made of, each held against the rows alone.

    spac-repro sweep submit fresh_seeds --cluster local --out runs/fresh-seeds
    python experiments/false_alarms.py runs/fresh-seeds

At the file's level α, about a share α of the runs should fail.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from paired import finished_in_sweep

from spac_repro.runs.verdict import RowComparison, Verdict
from spac_repro.trust.verification import verify_runs

HEAD = (
    *("method", "primary row", "expected", "tolerance", "smallest detectable", "effect"),
    *("runs that disagree", "furthest, in tolerances"),
)


def main(sweep: Path) -> None:
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for run in finished_in_sweep(sweep):
        verdicts[run.manifest.method].append(verify_runs([run.path]))
    print("| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|", sep="\n")
    for method, its in verdicts.items():
        for row in zip(*(primary(verdict, method) for verdict in its), strict=True):
            print("| " + " | ".join(line(row)) + " |")
        failed = sum(verdict.status != "verified" for verdict in its)
        print(f"\n{method}: {failed} of {len(its)} runs fail; family-wise level {its[0].alpha:g}\n")


def primary(verdict: Verdict, method: str) -> list[RowComparison]:
    """The rows that decide, of the method itself."""
    return [comparison for comparison in verdict.comparisons if comparison.primary and comparison.key.method == method]


def line(row: Sequence[RowComparison]) -> list[str]:
    """What the runs' comparisons with one row have in common, and how they ended."""
    first = row[0]
    furthest = max(abs(comparison.difference) / comparison.tolerance for comparison in row)
    numbers = [
        f"{value:.4f}" for value in (first.expected, first.tolerance, first.smallest_detectable, first.effect) if value is not None
    ]
    disagree = sum(not comparison.agrees for comparison in row)
    return [first.key.method, f"{first.key.task} {first.key.metric}", *numbers, f"{disagree} of {len(row)}", f"{furthest:.2f}"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
