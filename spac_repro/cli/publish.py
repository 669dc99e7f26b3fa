"""`spac-repro report`: what a run found, as a page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli.options import AsJson


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page: verdict, scores, curves, responses, where every setting comes from, how to repeat it."""
    from spac_repro.publish import report as reports

    size = reports.write_report(folders, out)
    print(json.dumps({"report": str(out), "bytes": size}) if as_json else f"{out}: {size / 1000:.0f} kB")
