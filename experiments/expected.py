"""Make expected_results/<recipe>.yaml from finished runs, and the tables and the figure of docs/results.md.

    spac-repro sweep submit ten_seeds --cluster local --out runs/ten-seeds
    python experiments/expected.py runs/ten-seeds --write expected_results/tiny.yaml --figure docs/figures/ten-seeds.svg

The primary rows are two scores of the last iterate: the gold reward, and the margin ρ(y⁺) − ρ(y⁻) on held-out preferences. Of all
scores, this margin separates SPAC's last iterate most from DPO's. Every other score of every iterate is secondary. The effect that
a primary row must be able to detect is its distance from the start policy: whether something was learned, and how much.
"""

import argparse
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from paired import finished_in_sweep, plot_rewards, values
from paired import table as paired

from spac_repro import methods
from spac_repro.errors import UserError
from spac_repro.runs import numerics
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest, leaf_differences
from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected import START, ExpectedResults, measured_rows
from spac_repro.trust.run_scores import RunScores, read_run_scores

PRIMARY = (("gold", "reward"), ("heldout", "margin"))


def main() -> None:
    """Write the file and the figure that are named, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="Folder with METHOD/seed-N, every run finished.")
    parser.add_argument("--write", type=Path, help="The expected_results file to write.")
    parser.add_argument("--figure", type=Path, help="Write this figure, with every seed of every method.")
    arguments = parser.parse_args()
    finished = finished_in_sweep(arguments.sweep)
    evidence = [read_run_scores(run.path) for run in finished]
    present = {run.method for run in evidence}
    by_method = {name: [run for run in evidence if run.method == name] for name in methods.names() if name in present}
    if arguments.write:
        check_one_environment(finished)
        arguments.write.write_text(expected(finished[0].manifest, by_method).as_yaml())
    rivals = {method: runs for method, runs in by_method.items() if method != "spac"}
    print(table(by_method), paired("spac", by_method["spac"], rivals), sep="\n")
    if arguments.figure:
        plot_rewards(by_method, arguments.figure)


def check_one_environment(runs: Sequence[RunFolder]) -> None:
    """Check that the file can name one source for all of these runs.

    Raises:
        UserError: a run was made in another environment than the first, in several, or with uncommitted code.
    """
    first = runs[0].manifest.environment
    for run in runs:
        manifest = run.manifest
        if manifest.segments:
            raise UserError(f"{run}: it was resumed in another environment; repeat it in one")
        if (manifest.environment["source"] or {"changed": True})["changed"]:
            raise UserError(f"{run}: it was made with code that no commit holds; commit first, and repeat it")
        for key, here, there in leaf_differences(first, manifest.environment):
            raise UserError(f"{run}: {key} is {there!r}, and {here!r} in {runs[0]}; make all runs in one environment")


def expected(manifest: Manifest, by_method: dict[str, list[RunScores]]) -> ExpectedResults:
    """The content of the file. The rows of the start policy come from SPAC's runs, since all methods share it."""
    last = max(by_method["spac"][0].scores)
    seeds = sorted(run.seed or 0 for run in by_method["spac"])
    rows: list[Any] = []
    for method, runs in by_method.items():
        for iteration, scores in runs[0].scores.items():
            if iteration == 0 and method != "spac":
                continue
            for score in scores:
                key = ScoreKey(START if iteration == 0 else method, score.task, score.metric, iteration)
                primary = {key} if iteration == last and (score.task, score.metric) in PRIMARY else set()
                values_by_seed = values(runs, score.task, score.metric, iteration)
                rows += measured_rows(
                    {key: values_by_seed},
                    "ours",
                    primary=primary.__contains__,
                    n=score.n,
                    version=score.version or None,
                    rounding=1e-6,
                )
    source = {
        "kind": "measured",
        "commit": manifest.environment["source"]["commit"],
        "lock_sha256": manifest.environment["lock"]["sha256"],
        "hardware": f"{numerics.hardware(manifest.environment)}, one thread a run",
        "date": date.today().isoformat(),
        "seeds": seeds,
        "command": "spac-repro sweep submit ten_seeds --cluster local",
        "harness": by_method["spac"][0].harness,
    }
    digests = {method: runs[0].settings_sha256 for method, runs in by_method.items()}
    content = {"recipe": manifest.recipe, "alpha": 0.01, "settings_sha256": digests, "sources": {"ours": source}, "rows": rows}
    return ExpectedResults.model_validate(content)


def table(by_method: dict[str, list[RunScores]]) -> str:
    """Markdown table of mean ± standard deviation over seeds, by method and iterate."""
    metrics = [*PRIMARY, ("gold", "exact"), ("heldout", "accuracy"), ("heldout", "divergence"), ("average", "mean")]
    lines = ["| method | iterate | " + " | ".join(" ".join(name) for name in metrics) + " |", "| --- " * (2 + len(metrics)) + "|"]
    for method, runs in by_method.items():
        for iteration in runs[0].scores:
            if iteration == 0 and method != "spac":
                continue
            cells = []
            for name in metrics:
                scores = values(runs, *name, iteration)
                cells.append(f"{statistics.fmean(scores):.3f} ± {statistics.stdev(scores):.3f}" if scores else "")
            lines.append(f"| {START if iteration == 0 else method} | {iteration} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
