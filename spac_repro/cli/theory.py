"""`spac-repro theory`: check the convergence claims in the tabular setting."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import output
from spac_repro.cli.choices import Experiment, one_of
from spac_repro.cli.options import AsJson
from spac_repro.cli.output_path import outside_runs
from spac_repro.theory.runner import EXPERIMENTS


def theory(
    experiments: Annotated[
        list[Experiment] | None,
        typer.Option("--experiment", parser=one_of(EXPERIMENTS), help="Run only this experiment. Repeatable.", show_default="all"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer seeds and sizes. Takes half a minute.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", show_default="20, or 5 with --quick", min=2)] = None,
    first_seed: Annotated[
        int, typer.Option(help="First seed. The expected results were measured with seeds 1 to 20.", min=0)
    ] = 101,
    out: Annotated[Path, typer.Option(callback=outside_runs, help="Folder to write numbers, figures and tables to.")] = Path(
        "runs/theory"
    ),
    as_json: AsJson = False,
) -> None:
    """Check the paper's convergence claims where they can be computed exactly: on tabular instances.

    Compares SPAC-T with baselines. docs/theory.md explains each experiment.
    """
    from spac_repro.theory.runner import run
    from spac_repro.trust import terminal

    with output.progress(as_json) as progress:
        report = run(experiments, quick=quick, seeds=seeds, first_seed=first_seed, out=out, progress=progress)
    if as_json:
        print(json.dumps({"out": str(out), **report.as_json()}))
    else:
        output.show(terminal.render_verdict(report.verdict))
        print(f"numbers, tables and figures are in {out}")
    raise typer.Exit(1 if report.verdict.status == "disagrees" else 0)
