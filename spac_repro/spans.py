"""Named parts of a run, for a listener that measures them. Entering one does nothing unless there is a listener."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """What is told of the beginning and the end of each span. Spans may be nested."""

    def begin(self, name: str) -> None:
        """A span begins."""

    def end(self) -> None:
        """The innermost span ends."""


_listener: Listener | None = None


@contextmanager
def span(name: str) -> Iterator[None]:
    """Name what is done inside this block."""
    listener = _listener
    if listener is None:
        yield
        return
    listener.begin(name)
    try:
        yield
    finally:
        listener.end()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell the listener of every span inside this block."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
