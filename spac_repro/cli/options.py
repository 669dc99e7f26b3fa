"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from spac_repro import protocols
from spac_repro.cli import choices
from spac_repro.errors import UserError

# Options of earlier versions. A command that has the new name refuses the old one with it.
RENAMED = {"--engine": "--runtime", "--data": "--questions", "--limit": "--max-pairs", "--seeds": "--seed-run"}

RecipeName = Annotated[
    str,
    typer.Option("--recipe", autocompletion=choices.recipe_names, help="Name of a recipe (see `recipes list`), or a YAML file."),
]
Policy = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Policy to start from, instead of the recipe's: a model folder with safetensors and its tokenizer, or a model of the "
        "hub, OWNER/NAME@COMMIT.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of the recipe, e.g. training.epochs_per_iteration=1. Repeatable."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse preferences with a row that states none. By default such rows are dropped.")
]
MaxPairs = Annotated[
    int | None, typer.Option(help="Use only the first N preference pairs: the setting data.max_pairs.", metavar="N", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else, to stdout.")]
_QUESTIONS = "Folder with the leaderboard's questions, one subfolder per task (arc_challenge/, gsm8k/, …)."


def _folder_of_questions(folder: Path | None) -> Path | None:
    """Refuse what is no folder, also where a recipe would ask no questions.

    Raises:
        UserError: it is not there, or not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--questions {folder} is not a folder; give the folder that holds the questions, one folder a benchmark")
    return folder


Questions = Annotated[
    Path | None, typer.Option("--questions", help=_QUESTIONS, show_default="the hub", callback=_folder_of_questions)
]
TrainQuestions = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        help=f"{_QUESTIONS} Default: the folder leaderboard/ next to the folder of --preferences if it exists, else the hub.",
        callback=_folder_of_questions,
    ),
]
Base = Annotated[
    Path | None,
    typer.Option("--base", metavar="FOLDER", help="Of an adapter folder: the model folder of its base.", show_default="its own"),
]

Protocol = Annotated[
    str,
    typer.Option(
        autocompletion=choices.protocol_names,
        help="What else than the weights moves a score. "
        + "; ".join(f"{known.label}: {known.summary}" for known in protocols.every())
        + ".",
    ),
]

# Options about a container

InImage = Annotated[
    str | None,
    typer.Option(
        "--in", metavar="IMAGE", help="Run in a container of this image: docker:IMAGE, podman:IMAGE or apptainer:FILE.sif."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Only with --in: memory limit of the container, e.g. 8g. Default: none."),
]
Network = Annotated[bool, typer.Option("--network", help="Only with --in: allow the container to use the network. Default: off.")]
OtherVersion = Annotated[
    bool, typer.Option("--other-version", help="Only with --in: accept an image with another version of spac-repro.")
]
