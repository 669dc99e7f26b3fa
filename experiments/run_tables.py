"""The tables of docs/results-smollm2.md, from a run folder: `python experiments/run_tables.py RUN`."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spac_repro.data import dataset
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.metrics import StepMetrics
from spac_repro.runs.results import Results
from spac_repro.runs.timing import StageTiming

CURVE = ("loss", "accuracy", "margin", "critic_gap", "rho_chosen", "rho_rejected", "rho_selfplay", "grad_norm")


def main(folder: Path) -> None:
    """Print every table of a run."""
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
            table(["task", "questions asked", "exact", "13-gram"], contamination(results.contamination))
    table(["iteration", "step", *CURVE], curve(run.metrics()))
    table(["iteration", "responses", "mean tokens", "median", f"cut at {limit}"], lengths(run, limit))


def stages(timing: Iterable[StageTiming]) -> Iterable[list[str]]:
    """Yield time and memory of every stage."""
    for entry in timing:
        peak = f"{(entry.peak_memory_bytes or 0) / 1e9:.1f}"
        yield [str(entry.iteration), entry.stage, f"{entry.seconds:.0f}", peak]


def heads(results: Results) -> list[str]:
    """Return the iterates' column heads."""
    return ["start", *(f"iteration {t}" for t in range(1, len(results.iterations)))]


def scores(results: Results) -> Iterable[list[str]]:
    """Yield every score, with one column for each iterate."""
    for rows in zip(*(iterate.scores for iterate in results.iterations), strict=True):
        cells = [f"{row.value:.3f}" + (f" ± {row.stderr:.3f}" if row.stderr is not None else "") for row in rows]
        yield [rows[0].task, rows[0].metric, str(rows[0].n), *cells]


def contamination(report: dict[str, Any]) -> Iterable[list[str]]:
    """Yield the number of contaminated questions of each task."""
    for name, task in report["tasks"].items():
        yield [name, str(task["items"]), str(task["exact"]), str(task["ngram"])]


def curve(steps: Iterable[StepMetrics]) -> Iterable[list[str]]:
    """Yield one row for each optimizer step. A supervised start and some methods lack some of the columns."""
    for step in steps:
        cells = (f"{step.values[name]:.3f}" if name in step.values else "" for name in CURVE)
        yield [str(step.iteration), str(step.step), *cells]


def lengths(run: RunFolder, limit: int) -> Iterable[list[str]]:
    """Yield statistics of response lengths in tokens. A response without an end-of-sequence token at the limit counts as cut."""
    for iteration in run.iterations():
        if not iteration.has_dataset:
            continue
        responses = dataset.read(iteration.dataset_file).responses
        stop = statistics.mode(tokens[-1] for tokens in responses["chosen"])
        for name, of_kind in responses.items():
            sizes = [len(tokens) for tokens in of_kind]
            cut = sum(len(tokens) == limit and tokens[-1] != stop for tokens in of_kind)
            row = [f"{statistics.fmean(sizes):.1f}", f"{statistics.median(sizes):.0f}", f"{cut} of {len(sizes)}"]
            yield [str(iteration.number), name, *row]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
