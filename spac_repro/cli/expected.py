"""`spac-repro expected …`: files of expected results."""

from pathlib import Path
from typing import Annotated

import typer

from spac_repro import protocols
from spac_repro.cli import choices
from spac_repro.cli.output_path import outside_runs

Output = Annotated[
    Path, typer.Option("--output", "-o", callback=outside_runs, metavar="FILE", help="YAML file to write. It must not exist.")
]
app = typer.Typer(help="Make files of expected results, from published scores or from runs of your own.", no_args_is_help=True)


@app.command("import")
def import_table(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="Scores, one line a model.")],
    recipe: Annotated[
        str, typer.Option(autocompletion=choices.recipe_names, help="Recipe that the scores are about, e.g. zephyr-7b.")
    ],
    citation: Annotated[str, typer.Option(help="Where the scores were published: paper, table, rows.")],
    unit: Annotated[
        str, typer.Option(parser=choices.one_of(("percent", "share")), metavar="percent|share", help="Of the numbers.")
    ],
    output: Output,
    protocol: Annotated[
        str, typer.Option(help=f"Protocol of the evaluation, if it is stated: {', '.join(protocols.names())}.")
    ] = "",
    expected: Annotated[
        Path | None, typer.Option(help="File of expected results to copy.", show_default="the recipe's, in the package")
    ] = None,
) -> None:
    """Write a copy of a recipe's expected results with the scores of a published table.

    Checked: the columns; that every number is in its range; that each average is the mean of its tasks, up to rounding; n, if a
    line states it. Rows get their tolerances from what groups differ by (docs/publishing.md). Nothing is overwritten.

    \b
    Example of TABLE.csv. The numbers are made up. The line n and the column average may be left out:
      method,iteration,arc_challenge,truthfulqa_mc2,winogrande,gsm8k,hellaswag,mmlu,average
      n,,1172,817,1267,1319,10042,14042,
      spac,1,62.0,50.0,74.0,33.0,84.0,60.0,60.5
      spac,2,63.0,51.0,74.0,34.0,84.0,60.0,61.0

    \b
    spac-repro expected import TABLE.csv --recipe zephyr-7b --unit percent --citation "Paper, Table 2" -o zephyr-7b.yaml
    spac-repro verify RUN --expected zephyr-7b.yaml

    Exit codes: 0 written; 2 a wrong table, or FILE exists.
    """  # noqa: D301  # \b keeps the lines of the help
    from spac_repro.trust import expected_import

    done = expected_import.import_table(table, recipe, output, citation=citation, unit=unit, protocol=protocol, base=expected)
    print(f"{output}: {done.rows} rows added")
    if done.removed:
        print(f"not in the table, so their untranscribed rows were removed: {', '.join(done.removed)}")
    if done.unknown:
        print(f"no run is compared with these, because no method has the name: {', '.join(done.unknown)}")
    if done.skipped:
        print(f"already there, with the same scores: {', '.join(done.skipped)}")


@app.command()
def measure(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of three or more seeds, none of them 0.")],
    output: Output,
    primary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK/METRIC",
            help="Score of the last iterate that decides a verdict. Repeatable.",
            show_default="heldout/margin and gold/reward",
        ),
    ] = None,
) -> None:
    """Write expected results from runs of your own: mean and spread over seeds of every score.

    The runs have one recipe, method, inputs and environment, and differ in their seed. Keep seed 0 for the run that is verified.

    \b
    spac-repro expected measure runs/mine/dpo/seed-1 runs/mine/dpo/seed-2 runs/mine/dpo/seed-3 -o mine-expected.yaml
    spac-repro verify runs/mine/dpo/seed-0 --expected mine-expected.yaml

    Exit codes: 0 written; 2 runs that do not belong together, or FILE exists.
    """  # noqa: D301  # \b keeps the lines of the help
    from spac_repro.errors import UserError
    from spac_repro.trust import expected_measured

    names = [tuple(name.split("/")) for name in primary or ()]
    if wrong := [name for name in names if len(name) != 2]:
        raise UserError(f"--primary {'/'.join(wrong[0])}: write TASK/METRIC, for example heldout/margin")
    done = expected_measured.measure(runs, output, primary=[(task, metric) for task, metric in names])
    decisive = ", ".join(f"{row.task} {row.metric}" for row in done.rows if row.primary)
    print(f"{output}: {len(done.rows)} rows of {len(runs)} seeds; these decide: {decisive}")
