"""Registries: named entries of this package and of plugins, which are other installed Python distributions.

A plugin adds an entry by an entry point: `[project.entry-points."spac_repro.methods"]` in its pyproject.toml.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any, Generic, Protocol, TypeVar

from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError


class Named(Protocol):
    """What a registry can hold."""

    @property
    def name(self) -> str:
        """The entry's name in its registry."""


Entry = TypeVar("Entry", bound=Named)


@dataclass(frozen=True)
class Origin:
    """The Python distribution that an entry comes from."""

    distribution: str
    version: str


class Registry(Generic[Entry]):
    """Entries by name, in the order of their registration."""

    def __init__(self, kind: str, entry_point_group: str, entry_type: type[Entry]) -> None:
        """Create an empty registry.

        Args:
            kind: What an entry is called in errors, for example "method".
            entry_point_group: The group of the entry points of plugins.
            entry_type: The class of every entry.
        """
        self._kind = kind
        self._entry_point_group = entry_point_group
        self._entry_type = entry_type
        self._entries: dict[str, Entry] = {}
        self._origins: dict[str, Origin] = {}

    def register(self, entry: Entry, origin: Origin | None = None) -> Entry:
        """Add an entry and return it. `origin` is the distribution of a plugin's entry, None for the package's own.

        Raises:
            UserError: Another entry has this name.
        """
        if self._entries.get(entry.name, entry) != entry:
            from_plugin = f", one of them from {origin.distribution} {origin.version}" if origin else ""
            raise UserError(f"two {self._kind}s are called {entry.name}{from_plugin}; rename or uninstall one")
        self._entries[entry.name] = entry
        if origin is not None:
            self._origins[entry.name] = origin
        return entry

    def load_plugins(self) -> None:
        """Add the entries of plugins.

        Raises:
            UserError: An entry cannot be imported, has the wrong type, or its name is taken.
        """
        for point in _entry_points().select(group=self._entry_point_group):
            try:
                entry = point.load()
            except Exception as error:  # importing a plugin may raise anything
                raise UserError(one_line(f"the {self._kind} {point.name} ({point.value}) cannot be imported: {error}")) from error
            if not isinstance(entry, self._entry_type):
                problem = f"is a {type(entry).__name__}; it must be a {self._entry_type.__name__}"
                raise UserError(one_line(f"the {self._kind} {point.name} ({point.value}) {problem}"))
            self.register(entry, Origin(point.dist.name, point.dist.version) if point.dist else None)

    def names(self) -> tuple[str, ...]:
        """Return the name of every entry, the package's own first."""
        return tuple(self._entries)

    def entries(self) -> tuple[Entry, ...]:
        """Return every entry, the package's own first."""
        return tuple(self._entries.values())

    def get(self, name: str) -> Entry:
        """Return the entry of this name.

        Raises:
            UserError: There is none; the message suggests the closest name.
        """
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise UserError(f"unknown {self._kind} {name!r}{did_you_mean(name, self._entries)}; the {self._kind}s are {known}")
        return self._entries[name]

    def origin(self, name: str) -> Origin | None:
        """Return the distribution of a plugin's entry; None for the package's own entries."""
        return self._origins.get(name)


def import_object(path: str) -> Any:
    """Import the object "module:name". The module's attribute is looked up anew at every call.

    Raises:
        UserError: There is no such module, or no such object in it.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(one_line(f"{path} cannot be imported: {error}; correct its entry, or the module")) from error


@cache
def _entry_points() -> Any:
    return metadata.entry_points()
