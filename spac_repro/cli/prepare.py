"""`spac-repro prefetch` and `spac-repro doctor`: prepare and check a machine or a cluster before training there."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson, Overrides, RecipeName


def prefetch(
    cache: Annotated[Path, typer.Option(help="Folder to download to, on a disk that the nodes share.")],
    recipe: RecipeName = "zephyr-7b",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Download what a recipe needs from the hub: model, preferences and questions. For nodes without internet.

    Every file is hashed. Set `cache` in the cluster profile to this folder: jobs then check the hashes and work offline.
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
        typer.Option(
            autocompletion=choices.cluster_names, help="Check this cluster as well: a name in launchers/clusters/, or a YAML file."
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            autocompletion=choices.sweep_names,
            help="Check that the runs of this sweep fit on the disk: a name in launchers/sweeps/, or a YAML file.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder that the runs will be written to.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check that this machine (and cluster) can run the work; suggest fixes.

    Exit code 3 if a check fails.
    """
    from spac_repro import doctor as checks_of_machine
    from spac_repro.launchers.profile import Cluster

    runs, bytes_per_run = _disk_space(sweep) if sweep else (0, 0)
    profile = Cluster.load(cluster) if cluster else None
    checks = checks_of_machine.run_checks(profile, out.resolve(), runs=runs, bytes_per_run=bytes_per_run)
    unfit = any(check.verdict == "unfit" for check in checks)
    if as_json:
        print(json.dumps({"fit": not unfit, "checks": [check.as_json() for check in checks]}))
    else:
        table = output.table("spac-repro doctor", "what", "", "found", "remedy")
        for check in checks:
            table.add_row(check.what, check.verdict, check.found, check.remedy)
        output.show(table)
    raise typer.Exit(3 if unfit else 0)


def _disk_space(sweep: str) -> tuple[int, int]:
    """The number of runs of a sweep, and the disk space of the largest one in bytes."""
    from spac_repro import cost, recipes
    from spac_repro.launchers import matrix

    runs = matrix.runs(matrix.Sweep.load(sweep))
    distinct = {run.settings_sha256: recipes.load(run.recipe, method=run.method, overrides=run.settings) for run in runs}
    sizes = [cost.estimate(run, run.recipe.data.max_pairs).disk for run in distinct.values()]
    return len(runs), max(sizes, default=0)
