"""Things with a name that others choose from, the package's own and those of other installed distributions.

A distribution adds to a registry by an entry point: `[project.entry-points."spac_repro.methods"]` in its pyproject.toml.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any, Generic, Protocol, TypeVar

from spac_repro.documents.errors import one_line
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


@dataclass(frozen=True)
class Origin:
    """The distribution that an entry is from."""

    distribution: str
    version: str


class Registry(Generic[Entry]):
    """Entries by name, in the order in which they came."""

    def __init__(self, kind: str, group: str, entry: type[Entry]) -> None:
        """`kind` is what an entry is called in errors, `group` the entry points' group, `entry` the class of all entries."""
        self._kind = kind
        self._group = group
        self._entry = entry
        self._entries: dict[str, Entry] = {}
        self._origins: dict[str, Origin] = {}

    def register(self, entry: Entry, origin: Origin | None = None) -> Entry:
        """Add an entry; `origin` is the distribution that it is from, where that is another one.

        Raises:
            UserError: there is another one of that name.
        """
        if self._entries.get(entry.name, entry) != entry:
            whose = f", one of them from {origin.distribution} {origin.version}" if origin else ""
            raise UserError(f"two {self._kind}s are called {entry.name}{whose}; rename or uninstall one")
        self._entries[entry.name] = entry
        if origin is not None:
            self._origins[entry.name] = origin
        return entry

    def load_plugins(self) -> None:
        """Add the entries of other distributions.

        Raises:
            UserError: one cannot be imported, is something else, or its name is taken.
        """
        for point in _entry_points().select(group=self._group):
            try:
                entry = point.load()
            except Exception as error:  # a plugin fails in its own ways
                raise UserError(one_line(f"the {self._kind} {point.name} ({point.value}) cannot be imported: {error}")) from error
            if not isinstance(entry, self._entry):
                found = f"{type(entry).__name__}, and must be {self._entry.__name__}"
                raise UserError(one_line(f"the {self._kind} {point.name} ({point.value}) is of the type {found}"))
            self.register(entry, Origin(point.dist.name, point.dist.version) if point.dist else None)

    def names(self) -> tuple[str, ...]:
        """Every entry's name, the package's own first."""
        return tuple(self._entries)

    def entries(self) -> tuple[Entry, ...]:
        """Every entry."""
        return tuple(self._entries.values())

    def get(self, name: str) -> Entry:
        """An entry by its name.

        Raises:
            UserError: there is none; with the nearest name.
        """
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise UserError(f"unknown {self._kind} {name!r}{did_you_mean(name, self._entries)}; the {self._kind}s are {known}")
        return self._entries[name]

    def origin(self, name: str) -> Origin | None:
        """The distribution that an entry is from; None for the package's own."""
        return self._origins.get(name)


def import_object(path: str) -> Any:
    """What is called "module:name". Looked up at every call, so that it is the one its module holds now.

    Raises:
        UserError: there is no such thing.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(one_line(f"{path} cannot be imported: {error}; mend its entry, or the module")) from error


@cache
def _entry_points() -> Any:
    return metadata.entry_points()
