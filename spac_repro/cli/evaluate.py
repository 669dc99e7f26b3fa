"""`spac-repro evaluate`: scores of any model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro import suites
from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson, Questions


def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="MODEL_OR_RUN", help="A Hugging Face model folder, or a run (its last iterate).")
    ],
    suite: Annotated[
        str,
        typer.Option(
            autocompletion=choices.suite_names,
            help=f"{'; '.join(f'{its.name}: {its.summary}' for its in suites.builtin())}; or a folder of task files.",
        ),
    ] = "openllm",
    data: Questions = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of the suite, with commas between.", show_default="all")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many questions a task.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Affects speed, and scores by rounding only.", min=1)] = 16,
    as_json: AsJson = False,
) -> None:
    """Score a model on a leaderboard, through lm-evaluation-harness."""
    from spac_repro.evaluation import model_folder
    from spac_repro.evaluation.leaderboard import scoring

    chosen = suites.get(suite)
    with output.progress(as_json) as progress:
        progress.start_stage(f"{chosen.name} leaderboard")
        scores = model_folder.evaluate(
            target,
            chosen,
            data=data,
            tasks=tasks.split(",") if tasks else None,
            limit=limit,
            batch_size=batch_size,
            progress=progress,
        )
    harness = scoring.harness()
    if as_json:
        found = [score.as_dict() for score in scores]
        print(json.dumps({"model": str(target), "suite": chosen.name, "harness": harness, "scores": found}))
        return
    table = output.table(f"{target} on {chosen.name} ({harness})", "task", "metric", "value", "stderr", "n", "version")
    for score in scores:
        stderr = "" if score.stderr is None else f"{score.stderr:.4f}"
        table.add_row(score.task, score.metric, f"{score.value:.4f}", stderr, str(score.n), score.version)
    output.show(table)
