"""The values that options and arguments may take: listed in --help, offered by shell completion, checked when parsed."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from spac_repro import methods, protocols, suites
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.images import reference
from spac_repro.theory.runner import EXPERIMENTS

if TYPE_CHECKING:  # the choices are only known at run time; a command receives the name as a string
    Method = str
    Runtime = str
    Variant = str
    Experiment = str
else:
    Method = StrEnum("Method", {name: name for name in methods.names()})
    Runtime = StrEnum("Runtime", {name: name for name in reference.RUNTIMES})
    Variant = StrEnum("Variant", {name: name for name in reference.VARIANTS})
    Experiment = StrEnum("Experiment", {name: name for name in EXPERIMENTS})


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Return the parser of an option that takes one of these names. It refuses others and suggests the nearest name."""
    known = tuple(names)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}{did_you_mean(value, known)}")
        return value

    return parse


# These parameters take a file or a folder as well as a name. The shell completes the names; whoever reads the value checks it.


def suite_names(incomplete: str) -> list[str]:
    """The leaderboard suites that ship with the package."""
    return list(suites.names())


def protocol_names(incomplete: str) -> list[str]:
    """The evaluation protocols."""
    return list(protocols.names())


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
    """The submitted sweeps in runs/."""
    return sorted(file.parent.name for file in Path("runs").glob("*/sweep.json"))
