"""`spac-repro prefetch` and `spac-repro doctor`: prepare and check a machine or a cluster before training there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spac_repro.cli import choices, output, policy_source
from spac_repro.cli.options import AsJson, Overrides, Policy, RecipeName
from spac_repro.cli.output_path import outside_runs
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from spac_repro.recipe import Run


def prefetch(
    cache: Annotated[Path, typer.Option(callback=outside_runs, help="Folder to download to, on a disk that the nodes share.")],
    recipe: RecipeName = "zephyr-7b",
    policy: Policy = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Download what a recipe needs from the hub: model, preferences and questions. For nodes without internet.

    Every file is hashed. Set `cache` in the cluster profile to this folder: jobs then check the hashes and work offline.
    """
    from spac_repro import prefetch as prefetching
    from spac_repro import recipes

    run = recipes.load(recipe, overrides=policy_source.overrides(policy, overrides))
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
    recipe: Annotated[
        str | None,
        typer.Option(
            autocompletion=choices.recipe_names,
            help="Check that this machine can run this recipe: its GPUs, and the disk space of one run. A name or a YAML file.",
        ),
    ] = None,
    policy: Policy = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder that the runs will be written to.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check that this machine (and cluster) can run the work; suggest fixes.

    Exit code 3 if a check fails.
    """
    from spac_repro import cost
    from spac_repro import doctor as checks_of_machine
    from spac_repro.launchers.profile import Cluster

    profile = Cluster.load(cluster) if cluster else None
    planned = _planned_runs(sweep, recipe, policy, overrides or ())
    checks = checks_of_machine.run_checks(
        profile,
        out.resolve(),
        runs=len(planned),
        bytes_per_run=max((cost.estimate(run, None).disk for run in planned), default=0),
        recipe=planned[0].recipe if planned else None,
    )
    unfit = any(check.verdict == "unfit" for check in checks)
    if as_json:
        print(json.dumps({"fit": not unfit, "checks": [check.as_json() for check in checks]}))
    else:
        table = output.table("spac-repro doctor", "what", "", "found", "remedy")
        for check in checks:
            table.add_row(check.what, check.verdict, check.found, check.remedy)
        output.show(table)
    raise typer.Exit(3 if unfit else 0)


def _planned_runs(sweep: str | None, recipe: str | None, policy: str | None, overrides: Sequence[str]) -> "list[Run]":
    """The runs of a sweep, or one run of a recipe; none if neither is named."""
    from spac_repro import recipes
    from spac_repro.launchers import matrix

    if sweep and recipe:
        raise UserError("--sweep and --recipe both say what will be trained; omit one")
    if (overrides or policy) and not recipe:
        raise UserError(f"{'--set' if overrides else '--policy'} changes a recipe; name one with --recipe, or omit it")
    if recipe:
        return [recipes.load(recipe, overrides=policy_source.overrides(policy, overrides))]
    runs = matrix.runs(matrix.Sweep.load(sweep)) if sweep else []
    distinct = {run.settings_sha256: recipes.load(run.recipe, method=run.method, overrides=run.settings) for run in runs}
    return [distinct[run.settings_sha256] for run in runs]
