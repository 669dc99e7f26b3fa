"""`spac-repro archive`: runs in one file, for whoever checks a claim."""

from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import output
from spac_repro.cli.output_path import outside_runs


def archive(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or folders of runs such as a sweep's.")],
    to: Annotated[
        Path, typer.Option("--output", "-o", callback=outside_runs, metavar="FILE", help="ZIP file to write. It must not exist.")
    ],
    title: Annotated[str, typer.Option(help="Title of the deposit.", show_default="recipes and methods")] = "",
    creators: Annotated[
        list[str] | None, typer.Option("--creator", metavar="'FAMILY, GIVEN'", help="Author of the deposit. Repeatable.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", metavar="SPDX", help="Licence of the deposit, e.g. CC-BY-4.0.")] = "",
    expected: Annotated[
        Path | None, typer.Option(help="File of expected results to include.", show_default="the recipes', in the package")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Include weights, and preferences with self-play responses. They may be large.")
    ] = False,
) -> None:
    """Write finished runs into one ZIP file with all that is needed to check their claim.

    It holds manifests, scores, answers, samples, metrics, expected results, lock files, citation, deposit metadata (DataCite,
    Zenodo) and answers to the ACM badge and NeurIPS checklists. Its README says how to check it without this package. Equal runs
    give equal bytes. `spac-repro verify FILE` checks every file by hash, and the scores.

    Exit codes: 0 written; 2 an unfinished or damaged run, or FILE exists; 3 the disk is full.
    """
    from spac_repro.publish import archive as publishing
    from spac_repro.publish.archive_texts import Deposit

    deposit = Deposit(title, tuple(creators or ()), licence)
    with output.progress(as_json=False) as progress:
        done = publishing.archive(paths, to, deposit=deposit, expected=expected, weights=weights, progress=progress)
    print(f"{to}: {done.runs} runs, {done.files} files, {done.bytes:,} bytes")
    print(f"SHA-256 {done.sha256}")
