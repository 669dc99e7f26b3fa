"""The tables of docs/results-*.md, from a run folder: `python experiments/run_tables.py RUN`."""

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spac_repro.data import triples
from spac_repro.runs.folder import RunFolder

CURVE = ("loss", "accuracy", "margin", "critic_gap", "rho_chosen", "rho_rejected", "rho_selfplay", "grad_norm")


def main(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    timing = json.loads((run / "timing.json").read_text())
    limit = manifest["settings"]["data"]["longest_response"]
    print(f"weights of the start {manifest['inputs']['policy_sha256']}")
    print(f"preferences {manifest['inputs']['preferences']}, {manifest['inputs']['preferences_sha256']}\n")
    table(["iteration", "stage", "seconds", "peak memory, GB"], stages(timing))
    if (run / "results.json").exists():
        results = json.loads((run / "results.json").read_text())
        print(f"weights of the last iterate {results['weights_sha256']}\n")
        table(["task", "metric", "n", *heads(results)], scores(results))
        if results["overlap"]:  # without a suite no question was asked
            table(["task", "questions asked", "exact", "13-gram"], overlap(results["overlap"]))
    table(["iteration", "step", *CURVE], curve(RunFolder(run).metrics()))
    table(["iteration", "responses", "mean tokens", "median", f"cut at {limit}"], lengths(run, limit))


def stages(timing: Iterable[dict[str, Any]]) -> Iterable[list[str]]:
    for entry in timing:
        peak = f"{entry['peak_memory_bytes'] / 1e9:.1f}"
        yield [str(entry["iteration"]), entry["stage"], f"{entry['seconds']:.0f}", peak]


def heads(results: dict[str, Any]) -> list[str]:
    return ["start", *(f"iteration {t}" for t in range(1, len(results["iterations"])))]


def scores(results: dict[str, Any]) -> Iterable[list[str]]:
    for rows in zip(*(iterate["scores"] for iterate in results["iterations"]), strict=True):
        cells = [f"{row['value']:.3f}" + (f" ± {row['stderr']:.3f}" if row["stderr"] is not None else "") for row in rows]
        yield [rows[0]["task"], rows[0]["metric"], str(rows[0]["n"]), *cells]


def overlap(found: dict[str, Any]) -> Iterable[list[str]]:
    for name, task in found["tasks"].items():
        yield [name, str(task["items"]), str(task["exact"]), str(task["ngram"])]


def curve(steps: Iterable[dict[str, Any]]) -> Iterable[list[str]]:
    """A row a step; a supervised start and some methods lack some of the columns."""
    for step in steps:
        yield [str(step["iteration"]), str(step["step"]), *(f"{step[name]:.3f}" if name in step else "" for name in CURVE)]


def lengths(run: Path, limit: int) -> Iterable[list[str]]:
    """Response tokens; a response that does not end before the limit is cut off there."""
    for path in sorted(run.glob("iteration-*/selfplay.parquet")):
        responses = triples.read(path).responses
        stop = statistics.mode(tokens[-1] for tokens in responses["chosen"])
        for name, its in responses.items():
            sizes = [len(tokens) for tokens in its]
            cut = sum(len(tokens) == limit and tokens[-1] != stop for tokens in its)
            row = [f"{statistics.fmean(sizes):.1f}", f"{statistics.median(sizes):.0f}", f"{cut} of {len(sizes)}"]
            yield [path.parent.name.removeprefix("iteration-"), name, *row]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
