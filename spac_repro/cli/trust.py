"""`spac-repro verify` and `spac-repro compare`: whether scores are as expected, and why two runs differ."""

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


Deep = Annotated[bool, typer.Option("--deep", help="Hash large files too, such as weights. Small files are always hashed.")]


def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run folders of one recipe, or bare results.json files.")
    ] = None,
    expected: Annotated[
        Path | None, typer.Option(help="File of expected results.", show_default="the recipe's, in the package")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="Verify a results file of lm-eval instead of runs. Excludes --deep.")] = None,
    recipe: Annotated[
        str | None, typer.Option(autocompletion=choices.recipe_names, help="With --scores: recipe that the scores belong to.")
    ] = None,
    method: Annotated[
        choices.Method | None, typer.Option(parser=choices.one_of(methods.names()), help="With --scores: method.")
    ] = None,
    iteration: Annotated[int | None, typer.Option(help="With --scores: iteration; 0 is the start policy.", min=0)] = None,
    deep: Deep = False,
    as_json: AsJson = False,
) -> None:
    """Compare scores with expected results. The tolerances come from the spread over seeds.

    First compares file hashes with the manifest; a mismatch ends the command with exit code 2. A bare results.json has no manifest,
    so its numbers are taken as they are. A score that is too good fails as well.

    Exit codes: 0 verified; 1 a score deviates; 2 unverified (no expected result could decide), a hash mismatch, or bad input.
    """
    from spac_repro.trust import terminal

    verdict = _verdict(folders or [], expected, scores, recipe, method, iteration, deep)
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
    deep: bool,
) -> "Verdict":
    from spac_repro.trust import verification

    if scores is None:
        return verification.verify_runs(folders, expected, deep=deep)
    if deep:
        raise UserError("--deep checks the files of a run, and --scores is a file alone; omit one of the two")
    if folders:
        raise UserError("name run folders or use --scores, not both")
    if recipe is None or method is None or iteration is None:
        raise UserError("--scores needs --recipe, --method and --iteration: a results file does not say which run it belongs to")
    from spac_repro.evaluation.leaderboard import lm_eval_results

    evidence = lm_eval_results.read(scores, recipe=recipe, method=method, iteration=iteration)
    return verification.verify_scores(evidence, expected)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Run folder, complete or not.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another run folder, or a file of expected results.")],
    seed_runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--seed-run",
            metavar="RUN",
            help="Run that differs from A or B in the seed alone. Adds to the runs beside A and B, from which noise is estimated. "
            "Repeatable.",
        ),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also hash large files, such as weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Explain why two runs differ: which recorded values differ, where the runs first differ, and how much the scores differ.

    Exit codes: 0 compared; 1 a score differs by more than noise; 2 not a run, a damaged file, or nothing to compare.
    """
    from spac_repro.trust import comparison, terminal

    if b.suffix in (".yaml", ".yml"):
        result = comparison.compare_expected(a, b, deep=deep)
    else:
        result = comparison.compare(a, b, seed_runs or (), deep=deep)
    if as_json:
        print(json.dumps(result.as_json()))
    else:
        output.show(terminal.render_comparison(result))
    raise typer.Exit(result.exit_code)
