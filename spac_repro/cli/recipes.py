"""`spac-repro recipes …`: what a run is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import choices, output
from spac_repro.cli.options import AsJson, Overrides

app = typer.Typer(help="The recipes: what a run is, every setting with where it comes from.", no_args_is_help=True)


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """The recipes that come with the package."""
    from spac_repro import recipes

    summaries = {name: recipes.load(name).recipe.summary for name in recipes.names()}
    if as_json:
        print(json.dumps(summaries))
        return
    for name, summary in summaries.items():
        print(f"{name:<16} {summary}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(autocompletion=choices.recipe_names, help="A recipe's name or a YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Every setting of a recipe: value, where it comes from, and why."""
    from spac_repro import recipes

    run = recipes.load(name, overrides=overrides or ())
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
def check(file: Annotated[Path, typer.Argument(help="A recipe in YAML.")]) -> None:
    """Say whether a recipe of your own is complete and valid, and if not, where."""
    from spac_repro import recipes

    run = recipes.load(str(file))
    print(f"{file}: recipe {run.recipe.name} is valid")
