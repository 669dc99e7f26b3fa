"""The tables of docs/results-*.md, from a run folder: `python experiments/run_tables.py RUN`."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spac_repro.data import triples
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.metrics import StepMetrics
from spac_repro.runs.results import Results
from spac_repro.runs.timing import StageTiming

CURVE = ("loss", "accuracy", "margin", "critic_gap", "rho_chosen", "rho_rejected", "rho_selfplay", "grad_norm")


def main(folder: Path) -> None:
    run = RunFolder.open(folder)
    inputs, limit = run.manifest.inputs, run.manifest.settings["data"]["max_response_tokens"]
    print(f"weights of the start {inputs['policy_sha256']}")
    print(f"preferences {inputs['preferences']}, {inputs['preferences_sha256']}\n")
    table(["iteration", "stage", "seconds", "peak memory, GB"], stages(run.timing()))
    if run.complete:
        results = run.results
        print(f"weights of the last iterate {results.weights_sha256}\n")
        table(["task", "metric", "n", *heads(results)], scores(results))
        if results.contamination:  # without a suite no question was asked
            table(["task", "questions asked", "exact", "13-gram"], overlap(results.contamination))
    table(["iteration", "step", *CURVE], curve(run.metrics()))
    table(["iteration", "responses", "mean tokens", "median", f"cut at {limit}"], lengths(run, limit))


def stages(timing: Iterable[StageTiming]) -> Iterable[list[str]]:
    for entry in timing:
        peak = f"{(entry.peak_memory_bytes or 0) / 1e9:.1f}"
        yield [str(entry.iteration), entry.stage, f"{entry.seconds:.0f}", peak]


def heads(results: Results) -> list[str]:
    return ["start", *(f"iteration {t}" for t in range(1, len(results.iterations)))]


def scores(results: Results) -> Iterable[list[str]]:
    for rows in zip(*(iterate.scores for iterate in results.iterations), strict=True):
        cells = [f"{row.value:.3f}" + (f" ± {row.stderr:.3f}" if row.stderr is not None else "") for row in rows]
        yield [rows[0].task, rows[0].metric, str(rows[0].n), *cells]


def overlap(found: dict[str, Any]) -> Iterable[list[str]]:
    for name, task in found["tasks"].items():
        yield [name, str(task["items"]), str(task["exact"]), str(task["ngram"])]


def curve(steps: Iterable[StepMetrics]) -> Iterable[list[str]]:
    """A row a step; a supervised start and some methods lack some of the columns."""
    for step in steps:
        cells = (f"{step.values[name]:.3f}" if name in step.values else "" for name in CURVE)
        yield [str(step.iteration), str(step.step), *cells]


def lengths(run: RunFolder, limit: int) -> Iterable[list[str]]:
    """Response tokens; a response that does not end before the limit is cut off there."""
    for iteration in run.iterations():
        if not iteration.has_triples:
            continue
        responses = triples.read(iteration.triples_file).responses
        stop = statistics.mode(tokens[-1] for tokens in responses["chosen"])
        for name, its in responses.items():
            sizes = [len(tokens) for tokens in its]
            cut = sum(len(tokens) == limit and tokens[-1] != stop for tokens in its)
            row = [f"{statistics.fmean(sizes):.1f}", f"{statistics.median(sizes):.0f}", f"{cut} of {len(sizes)}"]
            yield [str(iteration.number), name, *row]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
