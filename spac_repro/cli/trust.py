"""`spac-repro verify` and `spac-repro compare`: whether scores are as expected, and why two runs differ."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from spac_repro import methods
from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from spac_repro.evaluation.compared import Options
    from spac_repro.runs.verdict import Verdict
    from spac_repro.trust.comparison import Comparison
    from spac_repro.trust.question_comparison import QuestionComparison


BySubject = Annotated[
    bool, typer.Option("--by-subject", help="Question by question: take subjects, not questions, as what is drawn at random.")
]
AcrossProtocols = Annotated[
    bool, typer.Option("--across-protocols", help="Compare answers under different evaluation protocols, and say so.")
]
Deep = Annotated[bool, typer.Option("--deep", help="Hash large files too, such as weights. Small files are always hashed.")]


def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run folders of one recipe, bare results.json files, or one archive.")
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

    An archive (`spac-repro archive`) is checked file by file, and each method's runs in it are verified.

    Exit codes: 0 verified; 1 a score deviates; 2 unverified (no expected result could decide), a hash mismatch, or bad input.
    """
    from spac_repro.publish import archive_format
    from spac_repro.trust import terminal

    if scores is None and any(map(archive_format.looks_like_one, folders or ())):
        raise typer.Exit(_verify_archive(folders or [], expected, as_json))
    verdict = _verdict(folders or [], expected, scores, recipe, method, iteration, deep)
    if as_json:
        print(json.dumps(verdict.as_json()))
    else:
        output.show(terminal.render_verdict(verdict))
    raise typer.Exit(verdict.exit_code)


def _verify_archive(paths: list[Path], expected: Path | None, as_json: bool) -> int:
    """Verify an archive, print what was found, and return the exit code."""
    from spac_repro.publish import archive_verdicts
    from spac_repro.trust import terminal

    if len(paths) > 1:
        raise UserError("an archive is verified alone; name one archive, or run folders")
    (path,) = paths
    with output.progress(as_json) as progress:
        found = archive_verdicts.verify(path, expected, progress)
    if as_json:
        print(json.dumps(found.as_json()))
        return found.exit_code
    print(f"{path}: {found.files} files are those that were archived; SHA-256 {found.sha256}")
    for verdict in found.verdicts:
        output.show(terminal.render_verdict(verdict))
    return found.exit_code


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
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B",
            help="Two run folders, complete or not; or a run and a file of expected results. Question by question also: folders of "
            "runs (the seeds of a method), answers.parquet files, and samples_*.jsonl of lm-eval or a folder of them.",
        ),
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="B", help="Compare all of A with this B, question by question. Repeatable."),
    ] = None,
    seed_runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--seed-run",
            metavar="RUN",
            help="Run that differs from A or B in the seed alone. Adds to the runs beside A and B, from which noise is estimated. "
            "Repeatable.",
        ),
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(help="Question by question: iterate of the runs.", min=0, show_default="last")
    ] = None,
    by_subject: BySubject = False,
    across_protocols: AcrossProtocols = False,
    show: Annotated[int, typer.Option(help="Changed questions to list. --json has all.", metavar="N", min=0)] = 10,
    deep: Annotated[bool, typer.Option("--deep", help="Also hash large files, such as weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Explain why two runs differ: which recorded values differ, where the runs first differ, and how much the scores differ.

    Question by question, it says which questions flipped, the paired difference with its interval, and whether it is more than
    noise. Two groups of runs are compared this way alone: `compare spac/seed-1 spac/seed-2 --against dpo`.

    Exit codes: 0 compared; 1 a score differs by more than noise; 2 not a run, a damaged file, no question in common, or answers
    under other protocols.
    """
    a, b = _sides(paths, against or [])
    from spac_repro.evaluation import compared
    from spac_repro.trust import comparison

    options = compared.Options(iteration=iteration, by_subject=by_subject, across_protocols=across_protocols, deep=deep)
    refused: UserError | None = None
    questions: QuestionComparison | str | None = None
    if len(a) == len(b) == 1 and b[0].suffix in (".yaml", ".yml"):
        result = comparison.compare_expected(a[0], b[0], deep=deep)
    elif compared.are_two_runs(a, b):
        result = comparison.compare(a[0], b[0], seed_runs or (), deep=deep)
        try:
            questions = compared.compare_two_runs(a[0], b[0], options)
        except UserError as error:  # why the runs differ is said all the same
            refused = error
    else:
        _compare_groups(a, b, options, seed_runs or [], show if not as_json else None)
    _show_comparison(result, str(refused) if refused and as_json else questions, show if not as_json else None)
    raise refused or typer.Exit(result.exit_code)


def _show_comparison(result: "Comparison", questions: "QuestionComparison | str | None", show: int | None) -> None:
    """Print what is known of two runs: protocols first, then why they differ, then their questions; as JSON if `show` is None."""
    if show is None:
        print(json.dumps({**result.as_json(), **_questions_as_json(questions)}))
        return
    from rich.text import Text

    from spac_repro.trust import question_tables, terminal

    if questions is not None and not isinstance(questions, str):
        output.show(Text(questions.protocols))
    output.show(terminal.render_comparison(result))
    if isinstance(questions, str):
        output.show(Text(f"\nQuestion by question: {questions}", "bold"))
    elif questions is not None:
        output.show(question_tables.render_questions(questions, show, protocols=False))


def _sides(paths: list[Path], against: list[Path]) -> tuple[list[Path], list[Path]]:
    """The paths of A and of B."""
    if against:
        return paths, against
    if len(paths) != 2:
        raise UserError(f"compare takes A and B, and got {len(paths)} path(s); list several runs with A… --against B")
    return paths[:1], paths[1:]


def _compare_groups(a: list[Path], b: list[Path], options: "Options", seed_runs: list[Path], show: int | None) -> NoReturn:
    """Compare question by question alone; print the result as JSON if `show` is None."""
    from spac_repro.evaluation import compared
    from spac_repro.trust import question_tables

    if seed_runs:
        raise UserError("--seed-run is for two runs; groups of runs have the noise of their own seeds")
    questions = compared.compare(a, b, options)
    if show is None:
        print(json.dumps(questions.as_json()))
    else:
        output.show(question_tables.render_questions(questions, show))
    raise typer.Exit(1 if questions.significant else 0)


def _questions_as_json(questions: "QuestionComparison | str | None") -> dict[str, Any]:
    """The part about questions of `compare --json`; a text is the reason why there is none."""
    if questions is None:
        return {}
    return {"questions": None, "without_questions": questions} if isinstance(questions, str) else {"questions": questions.as_json()}
