"""`spac-repro recipes …`: list, show and check recipes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import choices, output, policy_source
from spac_repro.cli.options import AsJson, Overrides, Policy
from spac_repro.errors import UserError

app = typer.Typer(
    help="List, show and check recipes. A recipe holds every setting of a run, and where each value comes from.",
    no_args_is_help=True,
)


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship with the package."""
    from spac_repro import recipes

    summaries = {name: recipes.load(name).recipe.summary for name in recipes.names()}
    if as_json:
        print(json.dumps(summaries))
        return
    for name, summary in summaries.items():
        print(f"{name:<16} {summary}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(autocompletion=choices.recipe_names, help="Name of a recipe, or a YAML file.")],
    policy: Policy = None,
    overrides: Overrides = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a complete recipe file, to start a recipe of your own from.")
    ] = False,
    own_name: Annotated[
        str | None, typer.Option("--name", help="Only with --yaml: name of the recipe, after which run folders are named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting of a recipe: its value, and the source and reason that the recipe states. A null value may have none.

    \b
    spac-repro recipes show smollm2-135m --yaml --name mine > mine.yaml
    spac-repro recipes check mine.yaml
    """  # noqa: D301  # \b keeps the lines of the help
    from spac_repro import recipes

    run = recipes.load(name, overrides=policy_source.overrides(policy, overrides))
    if as_yaml and as_json:
        raise UserError("--yaml and --json are two forms of one answer; omit one")
    if own_name and not as_yaml:
        raise UserError("--name is the name of the recipe that --yaml prints; add --yaml, or omit it")
    if as_yaml:
        from spac_repro.recipes import writing

        print(writing.as_yaml(run, own_name), end="")
        return
    values = run.recipe.model_dump(mode="json")
    if as_json:
        print(json.dumps({"settings": values, "provenance": {k: asdict(v) for k, v in run.provenance.items()}}))
        return
    table = output.table(run.recipe.summary, "setting", "value", "from", "why")
    for key in recipes.leaf_keys(values):
        source = run.provenance.get(key)
        value = values
        for part in key.split("."):
            value = value[part]
        table.add_row(key, str(value), f"[{source.mark}]" if source else "", source.why if source else "")
    output.show(table)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Recipe, as a YAML file.")]) -> None:
    """Check that a recipe is complete and valid; otherwise say which line is wrong."""
    from spac_repro import recipes

    run = recipes.load(str(file))
    print(f"{file}: recipe {run.recipe.name} is valid")
