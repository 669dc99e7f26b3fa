"""The options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from spac_repro.cli import choices

RecipeName = Annotated[
    str,
    typer.Option("--recipe", autocompletion=choices.recipe_names, help="A recipe's name (see `recipes list`) or a YAML file."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. training.epochs_per_iteration=1; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Questions = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of leaderboard questions (arc_challenge/, gsm8k/, …), for machines without the hub."),
]

# An image that a command is carried out in

Inside = Annotated[
    str | None,
    typer.Option("--in", metavar="IMAGE", help="Do it inside an image: docker:IMAGE, podman:IMAGE or apptainer:FILE.sif."),
]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="With --in: at most so much memory, e.g. 8g.")]
Network = Annotated[bool, typer.Option("--network", help="With --in: allow the network; by default there is none.")]
OtherVersion = Annotated[
    bool, typer.Option("--other-version", help="With --in: take an image of another version of spac-repro all the same.")
]
