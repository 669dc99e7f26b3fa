"""`spac-repro export`: whole weights out of a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli.options import AsJson, Base
from spac_repro.cli.output_path import outside_runs


def export(
    target: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder (its last iterate), the folder of an iterate, or an adapter folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", callback=outside_runs, help="Folder to write; it must not exist.")],
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write an iterate as one Hugging Face model folder, with its adapter merged if it has one.

    The weights are read back and compared by hash before the folder appears. Without an adapter it is a copy of the iterate.
    """
    from spac_repro.publish import export as exports

    done = exports.export(target, out, base=base)
    if as_json:
        print(json.dumps(done.as_json()))
        return
    what = "the adapter merged into its base" if done.merged else "a copy of the iterate"
    print(f"{done.folder}: {what}\nweights {done.weights_sha256}")
