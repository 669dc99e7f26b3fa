"""Stop on a signal: immediately where nothing would be lost, after the optimizer step otherwise.

SIGTERM comes from whoever ends the process; SIGUSR2 comes from a scheduler, some time before the time limit.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
_deferring = False
_stop_requested = False
_signal_received = False
_end_requested = False


class Stopped(KeyboardInterrupt):
    """The training stopped at a signal, and all that it had computed is saved."""


def install_handlers() -> None:
    """Make SIGTERM and SIGUSR2 raise KeyboardInterrupt, once; later signals are ignored, so that the shutdown can finish."""
    for number in _SIGNALS:
        signal.signal(number, _handle)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Inside this block a signal only sets `stop_requested`; the caller checks it and stops at a safe point.

    Raises:
        KeyboardInterrupt: at the end of the block, if a signal arrived inside.
    """
    global _deferring, _stop_requested
    _deferring = True
    try:
        yield
        if _stop_requested:
            raise KeyboardInterrupt
    finally:
        _deferring = _stop_requested = False


def stop_requested() -> bool:
    """Whether a signal arrived inside the current `defer_signals` block."""
    return _stop_requested


def signal_received() -> bool:
    """Whether a signal ever arrived. Errors after that may be caused by it."""
    return _signal_received


def _handle(number: int, frame: object) -> None:
    global _stop_requested, _signal_received, _end_requested
    _signal_received = True
    _end_requested = _end_requested or number == signal.SIGTERM
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if not _deferring:
        raise KeyboardInterrupt
    _stop_requested = True


def hear_the_end() -> None:
    """Notice SIGTERM although another signal has arrived, so that `forget` does not swallow it."""
    signal.signal(signal.SIGTERM, _handle)


def forget() -> None:
    """Forget a signal that stopped something on purpose, and be ready for the next one.

    Raises:
        KeyboardInterrupt: SIGTERM arrived, which nobody sends on purpose.
    """
    global _signal_received
    if _end_requested:
        raise KeyboardInterrupt
    _signal_received = False
    install_handlers()
