"""`spac-repro evaluate`: score a model on a leaderboard suite."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro import protocols, suites
from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson, Base, Protocol, Questions
from spac_repro.cli.output_path import outside_runs
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from spac_repro.runs.results import Score


def evaluate(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_RUN", help="Hugging Face model folder, adapter folder, or a run folder (its last iterate is scored)."
        ),
    ],
    suite: Annotated[
        str,
        typer.Option(
            autocompletion=choices.suite_names,
            help="Leaderboard suite. "
            + "; ".join(f"{known.name}: {known.summary}" for known in suites.builtin())
            + "; a folder of task files; or lm-eval:TASK,… for any tasks of lm-eval by name.",
        ),
    ] = "openllm",
    questions: Questions = None,
    tasks: Annotated[
        str | None, typer.Option(help="Score only these tasks of the suite, e.g. arc_challenge,gsm8k.", show_default="all")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N questions of each task.", metavar="N", min=1)] = None,
    protocol: Protocol = protocols.CURRENT,
    batch_size: Annotated[int, typer.Option(help="Questions per batch. Changes scores only by rounding.", min=1)] = 16,
    answers: Annotated[
        Path | None,
        typer.Option(
            callback=outside_runs,
            metavar="FILE",
            help="Also write the answer to each question as a Parquet file, from which the scores are computed.",
            show_default="not written",
        ),
    ] = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a leaderboard suite, with lm-evaluation-harness."""
    from spac_repro.evaluation import model_folder
    from spac_repro.runs import answer_scores
    from spac_repro.runs import answers as answer_files

    chosen, known = suites.get(suite), protocols.get(protocol)
    _check_new(answers)
    with output.progress(as_json) as progress:
        progress.start_stage(f"{chosen.name} leaderboard")
        answered = model_folder.evaluate(
            target,
            chosen,
            questions_folder=questions,
            tasks=[task.strip() for task in tasks.split(",")] if tasks else None,
            limit=limit,
            batch_size=batch_size,
            base=base,
            progress=progress,
            protocol=known.name,
        )
        if answers is not None:
            answer_files.write(answers, answered)
    _show(target, chosen.name, known, answer_scores.scores(answered), as_json)


def _check_new(file: Path | None) -> None:
    """Check before hours of work that the file of answers can be written, and replaces none."""
    if file is not None and (file.exists() or not file.absolute().parent.is_dir()):
        problem = "it is there already; name another file" if file.exists() else f"there is no folder {file.parent}; create it"
        raise UserError(f"--answers {file}: {problem}")


def _show(target: Path, suite: str, protocol: protocols.Protocol, scores: "Sequence[Score]", as_json: bool) -> None:
    from spac_repro.evaluation.leaderboard import scoring

    if as_json:
        values = [score.as_dict() for score in scores]
        about = {"model": str(target), "suite": suite, "harness": scoring.harness_version(), "protocol": protocol.name}
        print(json.dumps({**about, "scores": values}))
        return
    title = f"{target} on {suite} ({scoring.harness_version()}, protocol {protocol.label})"
    table = output.table(title, "task", "metric", "value", "stderr", "n", "version")
    for score in scores:
        stderr = "" if score.stderr is None else f"{score.stderr:.4f}"
        table.add_row(score.task, score.metric, f"{score.value:.4f}", stderr, str(score.n), score.version)
    output.show(table)
    for note in dict.fromkeys(f"{score.task}: {score.note}" for score in scores if score.note):
        print(note)
