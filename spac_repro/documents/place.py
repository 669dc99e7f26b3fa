"""Where a value stands that somebody wrote, so that an error about it can name the place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from spac_repro.documents.message import refusal
from spac_repro.errors import UserError

Path = Sequence[str | int]  # keys and positions, from the outermost one in


class Place(Protocol):
    """What is asked about the values of a document."""

    def refusal(self, path: Path, problem: str, remedy: str = "") -> UserError:
        """An error about the value at `path`, or about one that is missing there."""

    def written(self, path: Path) -> str | None:
        """The number at `path` as it was written, where that is known."""


@dataclass(frozen=True)
class Whole:
    """A document of which nothing but its name is known: no lines."""

    where: str
    group: Path = ()  # the values checked stand below this key

    def refusal(self, path: Path, problem: str, remedy: str = "") -> UserError:
        return refusal(self.where, problem, key=dotted((*self.group, *path)), remedy=remedy)

    def written(self, path: Path) -> str | None:
        return None


def dotted(path: Path) -> str:
    """`policy.architecture.layers` of its parts."""
    return ".".join(map(str, path))
