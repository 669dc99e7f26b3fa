"""Being asked to stop, by a signal: at once where nothing is lost by it, and between two optimiser steps where a step would be.

SIGTERM comes from whoever ends the process; SIGUSR2 from a scheduler, some time before it does.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
_asked = False
_held = False
_came = False


def listen() -> None:
    """From now on these signals interrupt the process like Ctrl-C, once: a second one must not disturb the end already begun."""
    for number in _SIGNALS:
        signal.signal(number, _ask)


@contextmanager
def held() -> Iterator[None]:
    """While this lasts, being asked to stop is only noted: whoever holds it looks at `asked`, and stops where it suits.

    Raises:
        KeyboardInterrupt: at the end, if it was asked to stop.
    """
    global _held, _asked
    _held = True
    try:
        yield
        if _asked:
            raise KeyboardInterrupt
    finally:
        _held = _asked = False


def asked() -> bool:
    """Whether the process was asked to stop while that was held."""
    return _asked


def came() -> bool:
    """Whether one of these signals ever came. What fails from then on may fail because of it."""
    return _came


def _ask(number: int, frame: object) -> None:
    global _asked, _came
    _came = True
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if not _held:
        raise KeyboardInterrupt
    _asked = True
