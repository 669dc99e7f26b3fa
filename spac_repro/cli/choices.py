"""The names that options and arguments take. --help and completion list them; a wrong one is refused with the nearest."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from spac_repro import methods, suites
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.images import reference
from spac_repro.theory.runner import EXPERIMENTS

if TYPE_CHECKING:  # the lists are made at run time; a command gets the name as text
    Method = str
    Engine = str
    Variant = str
    Experiment = str
else:
    Method = StrEnum("Method", {name: name for name in methods.names()})
    Engine = StrEnum("Engine", {name: name for name in reference.ENGINES})
    Variant = StrEnum("Variant", {name: name for name in reference.VARIANTS})
    Experiment = StrEnum("Experiment", {name: name for name in EXPERIMENTS})


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """The parser of an option that takes one of these names."""
    known = tuple(names)

    def parse(given: str) -> str:
        if given not in known:
            raise typer.BadParameter(f"{given!r} is not one of {', '.join(known)}{did_you_mean(given, known)}")
        return given

    return parse


# What takes a file or a folder as well as a name is completed, and checked by whoever reads it.


def suite_names(incomplete: str) -> list[str]:
    """The suites that come with the package."""
    return list(suites.names())


def recipe_names(incomplete: str) -> list[str]:
    """The recipes that ship with the package."""
    from spac_repro import recipes

    return recipes.names()


def sweep_names(incomplete: str) -> list[str]:
    """The sweeps that ship with the package."""
    from spac_repro.launchers.matrix import Sweep

    return Sweep.names()


def cluster_names(incomplete: str) -> list[str]:
    """The cluster profiles that ship with the package."""
    from spac_repro.launchers.profile import Cluster

    return Cluster.names()


def submitted_sweeps(incomplete: str) -> list[str]:
    """The sweeps in runs/."""
    return sorted(file.parent.name for file in Path("runs").glob("*/sweep.json"))
