"""The source of a checked value: it makes errors that name the document, the line and the key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from spac_repro.documents.errors import user_error
from spac_repro.errors import UserError

KeyPath = Sequence[str | int]  # keys and list positions, from the outermost one in


class Source(Protocol):
    """Where the values of a document were written."""

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        """Make an error about the value at `path`, or about the value that is missing there."""

    def literal(self, path: KeyPath) -> str | None:
        """Return the number at `path` as it was written; None for any other value and where it is not known."""


@dataclass(frozen=True)
class NamedSource:
    """A source of which only the name is known, so that errors name no line."""

    name: str
    key_prefix: KeyPath = ()  # the checked values are below this key

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        """Make an error about the value at `path`, or about the value that is missing there."""
        return user_error(self.name, problem, key=dotted_key((*self.key_prefix, *path)), remedy=remedy)

    def literal(self, path: KeyPath) -> str | None:
        """Return None: how a number was written is not known."""
        return None


def dotted_key(path: KeyPath) -> str:
    """Join the parts of a path: `policy.architecture.num_hidden_layers`."""
    return ".".join(map(str, path))
