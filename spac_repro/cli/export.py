"""`spac-repro export`: whole weights out of a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli.options import AsJson, Base
from spac_repro.cli.output_path import outside_runs
from spac_repro.errors import UserError


def export(
    target: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder (its last iterate), the folder of an iterate, or an adapter folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", callback=outside_runs, help="Folder to write; it must not exist.")],
    average: Annotated[
        bool, typer.Option("--average", help="Of a finished run: the average of the weights of all iterates.")
    ] = False,
    with_start: Annotated[bool, typer.Option("--with-start", help="With --average: count the start policy as an iterate.")] = False,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write an iterate as one Hugging Face model folder, with its adapter merged if it has one.

    The weights are read back and compared by hash before the folder appears. Without an adapter it is a copy of the iterate.
    `spac-repro returned RUN` has the scores of the average.
    """
    from spac_repro.publish import export as exports

    if with_start and not average:
        raise UserError("--with-start is about the average of the iterates; add --average, or omit it")
    if average and base is not None:
        raise UserError("--average takes the bases from the run; omit --base")
    done = exports.average(target, out, with_start=with_start) if average else exports.export(target, out, base=base)
    if as_json:
        print(json.dumps(done.as_json()))
        return
    what = "the adapter merged into its base" if done.merged else "a copy of the iterate"
    if done.averaged:
        what = f"the average of the iterates {', '.join(map(str, done.averaged))}"
    print(f"{done.folder}: {what}\nweights {done.weights_sha256}")
