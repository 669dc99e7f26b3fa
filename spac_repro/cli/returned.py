"""`spac-repro returned`: the scores of the policies that a run can return."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro.cli import output
from spac_repro.cli.options import AsJson

if TYPE_CHECKING:
    from spac_repro.evaluation.returned import Returned


def returned(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    as_json: AsJson = False,
) -> None:
    """Score what a run can return: each iterate, the uniform mixture of the iterates, and the average of their weights.

    The scores are gold reward and those on held-out preferences, as far as the run measured them. `export --average` writes the
    average as a model folder. Nothing is written into the run folder; a repeated command prints the same.
    """
    from spac_repro import pipeline
    from spac_repro.evaluation import returned as policies

    with output.progress(as_json) as progress:
        pipeline.prepare_process(policies.recorded(target), progress)
        found = policies.score(target, progress)
    if as_json:
        print(json.dumps({"run": str(target), "policies": [each.as_json() for each in found]}))
    else:
        _show(target, found)


def _show(target: Path, found: "list[Returned]") -> None:
    table = output.table(str(target), "task", "metric", *(each.policy for each in found))
    for rows in zip(*(each.scores for each in found), strict=True):
        cells = [f"{row.value:.3f}" + ("" if row.stderr is None else f" ± {row.stderr:.3f}") for row in rows]
        table.add_row(rows[0].task, rows[0].metric, *cells)
    output.show(table)
