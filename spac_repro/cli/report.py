"""`spac-repro report`: write an HTML page about runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli.options import AsJson
from spac_repro.cli.output_path import outside_runs


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or folders that contain run folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", callback=outside_runs, help="HTML file to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page about runs.

    It shows the verdict, scores, training curves and sample responses, the source of every setting, and how to repeat the run.
    """
    from spac_repro.publish import report as reports

    size = reports.write_report(folders, out)
    print(json.dumps({"report": str(out), "bytes": size}) if as_json else f"{out}: {size / 1000:.0f} kB")
