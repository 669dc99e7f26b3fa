"""`spac-repro prefetch` and `spac-repro doctor`: what a machine or a cluster needs before runs are started there."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson, Overrides, RecipeName


def prefetch(
    cache: Annotated[Path, typer.Option(help="Folder to fill, on a disk that the nodes share.")],
    recipe: RecipeName = "zephyr-7b",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fetch what a recipe needs from the hub (model, preferences, questions), for nodes without internet; every file is hashed.

    Then name the folder as `cache` in a cluster profile: jobs verify it and run with the hub switched off.
    """
    from spac_repro import prefetch as prefetching
    from spac_repro import recipes

    run = recipes.load(recipe, overrides=overrides or ())
    with output.progress(as_json) as progress:
        manifest = prefetching.prefetch(run, cache, progress=progress)
    if as_json:
        print(json.dumps({"cache": str(cache), **manifest}))
    else:
        print(
            f"{cache}: {len(manifest['fetched'])} sources, {len(manifest['files'])} files; hashes in {cache / prefetching.MANIFEST}"
        )


def doctor(
    cluster: Annotated[
        str | None,
        typer.Option(autocompletion=choices.cluster_names, help="Name or file of a cluster profile: check that cluster, too."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(autocompletion=choices.sweep_names, help="Name or file of a sweep: check that its runs fit on the disk."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check that this machine (and a cluster) can run the work; suggest fixes. Exit code 3 if something is unfit."""
    from spac_repro import doctor as checks_of_machine
    from spac_repro.launchers.profile import Cluster

    cells, size = _space(sweep) if sweep else (0, 0)
    profile = Cluster.load(cluster) if cluster else None
    checks = checks_of_machine.run_checks(profile, out.resolve(), cells=cells, bytes_per_cell=size)
    unfit = any(check.verdict == "unfit" for check in checks)
    if as_json:
        print(json.dumps({"fit": not unfit, "checks": [check.as_json() for check in checks]}))
    else:
        table = output.table("spac-repro doctor", "what", "", "found", "remedy")
        for check in checks:
            table.add_row(check.what, check.verdict, check.found, check.remedy)
        output.show(table)
    raise typer.Exit(3 if unfit else 0)


def _space(sweep: str) -> tuple[int, int]:
    """The cells of a sweep, and the bytes on disk that the largest of them takes."""
    from spac_repro import cost, recipes
    from spac_repro.launchers import matrix

    cells = matrix.cells(matrix.Sweep.load(sweep))
    runs = {cell.digest: recipes.load(cell.recipe, method=cell.method, overrides=cell.settings) for cell in cells}
    return len(cells), max((cost.estimate(run, run.recipe.data.max_pairs).disk for run in runs.values()), default=0)
