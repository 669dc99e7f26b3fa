"""`spac-repro verify` and `spac-repro compare`: whether a run's numbers are the expected ones, and why two runs differ."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro import methods
from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from spac_repro.runs.verdict import Verdict


def verify(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders of one recipe.")] = None,
    expected: Annotated[Path | None, typer.Option(help="Expected results.", show_default="the package's for the recipe")] = None,
    scores: Annotated[Path | None, typer.Option(help="A results file of lm-eval, instead of runs.")] = None,
    recipe: Annotated[str | None, typer.Option(autocompletion=choices.recipe_names, help="With --scores: the recipe.")] = None,
    method: Annotated[
        choices.Method | None, typer.Option(parser=choices.one_of(methods.names()), help="With --scores: the method.")
    ] = None,
    iteration: Annotated[int | None, typer.Option(help="With --scores: the iterate.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Hold fresh scores against expected results, with tolerances from the spread over seeds. Deviations either way fail."""
    from spac_repro.trust import terminal

    verdict = _verdict(folders or [], expected, scores, recipe, method, iteration)
    if as_json:
        print(json.dumps(verdict.as_json()))
    else:
        output.show(terminal.render_verdict(verdict))
    raise typer.Exit(verdict.exit_code)


def _verdict(
    folders: list[Path],
    expected: Path | None,
    scores: Path | None,
    recipe: str | None,
    method: str | None,
    iteration: int | None,
) -> "Verdict":
    from spac_repro.trust import verification

    if scores is None:
        return verification.verify_runs(folders, expected)
    if folders:
        raise UserError("give run folders or --scores, not both")
    if recipe is None or method is None or iteration is None:
        raise UserError("--scores needs --recipe, --method and --iteration: a results file does not say which run it is of")
    from spac_repro.evaluation.leaderboard import results_file

    evidence = results_file.read(scores, recipe=recipe, method=method, iteration=iteration)
    return verification.verify_scores(evidence, expected)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder, complete or not.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, or a file of expected results.")],
    seeds: Annotated[
        list[Path] | None,
        typer.Option(
            "--seeds",
            metavar="RUN",
            help="Runs whose spread over seeds is the unit of noise; repeatable.",
            show_default="beside A and B",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say why two runs differ: what differs, where they first part, and how much it matters.

    Exit code 1 where a score differs by more than two seeds of the same recipe would.
    """
    from spac_repro.trust import comparison, terminal

    found = comparison.compare_expected(a, b) if b.suffix in (".yaml", ".yml") else comparison.compare(a, b, seeds or ())
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        output.show(terminal.render_comparison(found))
    raise typer.Exit(found.exit_code)
