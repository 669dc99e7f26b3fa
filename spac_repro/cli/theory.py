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
    instance: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the methods on a bandit of your own: a YAML file with reward, mu, scale and n (docs/theory.md).",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer seeds and sizes. Takes less than half a minute.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", show_default="20, or 5 with --quick", min=2)] = None,
    first_seed: Annotated[
        int, typer.Option(help="First seed. The expected results were measured with seeds 1 to 20.", min=0)
    ] = 101,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=outside_runs,
            help="Folder to write numbers, figures and tables to.",
            show_default="runs/theory, or runs/instance with --instance",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the paper's convergence claims where they can be computed exactly: on tabular instances.

    Compares SPAC-T with baselines. docs/theory.md explains each experiment, and the file that --instance takes.
    """
    from spac_repro.theory.runner import run
    from spac_repro.trust import terminal

    if instance is not None:
        _compare_on(instance, experiments, quick, seeds, first_seed, out or Path("runs/instance"), as_json)
        return
    out = out or Path("runs/theory")
    with output.progress(as_json) as progress:
        report = run(experiments, quick=quick, seeds=seeds, first_seed=first_seed, out=out, progress=progress)
    if as_json:
        print(json.dumps({"out": str(out), **report.as_json()}))
    else:
        output.show(terminal.render_verdict(report.verdict))
        print(f"numbers, tables and figures are in {out}")
    raise typer.Exit(1 if report.verdict.status == "disagrees" else 0)


def _compare_on(
    file: Path, experiments: list[str] | None, quick: bool, seeds: int | None, first_seed: int, out: Path, as_json: bool
) -> None:
    """Compare the methods on an instance of the user's own, and print the means."""
    from spac_repro.theory import own_instance
    from spac_repro.theory.runner import run_instance

    own_instance.refuse_other_choices(experiments, quick)
    with output.progress(as_json) as progress:
        report = run_instance(file, seeds=seeds, first_seed=first_seed, out=out, progress=progress)
    if as_json:
        print(json.dumps({"out": str(out), **report.as_json()}))
        return
    head, *rows = own_instance.short_table(report.result)
    table = output.table("mean suboptimality, each rival at its best setting (chosen with the true reward)", *head)
    for row in rows:
        table.add_row(*row)
    output.show(table)
    for finding in report.result["findings"]:
        print(finding)
    print(f"numbers with intervals, tests and the figure are in {out}")
