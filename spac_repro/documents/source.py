"""Where a value stands that somebody wrote, so that an error about it can name the place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from spac_repro.documents.errors import user_error
from spac_repro.errors import UserError

KeyPath = Sequence[str | int]  # keys and positions, from the outermost one in


class Source(Protocol):
    """What is asked about the values of a document."""

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        """An error about the value at `path`, or about one that is missing there."""

    def literal(self, path: KeyPath) -> str | None:
        """The number at `path` as it was written, where that is known."""


@dataclass(frozen=True)
class NamedSource:
    """A document of which nothing but its name is known: no lines."""

    name: str
    key_prefix: KeyPath = ()  # the values checked stand below this key

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        return user_error(self.name, problem, key=dotted_key((*self.key_prefix, *path)), remedy=remedy)

    def literal(self, path: KeyPath) -> str | None:
        return None


def dotted_key(path: KeyPath) -> str:
    """`policy.architecture.num_hidden_layers` of its parts."""
    return ".".join(map(str, path))
