"""Whether this process still owns a run folder: checked before every write into it.

A folder can be removed, and made again by another run, while a process is at work in it. The lock file tells: the owner holds it
open, so the file at its path is the same one only as long as the folder is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spac_repro.errors import UserError

LOCK = ".lock"

_owned: dict[Path, tuple[int, int]] = {}  # run folder -> device and inode of the lock file that was there in the beginning


def begin(folder: Path) -> None:
    """Remember a run folder, whose lock this process or the main process of its run holds."""
    _owned[folder.absolute()] = _identity(folder)


def end(folder: Path) -> None:
    """Forget a run folder."""
    _owned.pop(folder.absolute(), None)


def holds(folder: Path) -> bool:
    """Whether the lock file of a remembered run folder is the one that was there in the beginning."""
    try:
        return _identity(folder) == _owned.get(folder.absolute())
    except OSError:
        return False


def is_lost(folder: Path) -> bool:
    """Whether a remembered run folder was removed, or belongs to another run by now."""
    return folder.absolute() in _owned and not holds(folder)


def check(path: Path) -> None:
    """Check that the run folder that `path` lies in is still the one that this process owns; other paths are not checked.

    Raises:
        UserError: the folder was removed, or belongs to another run by now.
    """
    for folder in _owned:
        if path.absolute().is_relative_to(folder) and is_lost(folder):
            raise _lost(folder)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, but never a run folder that this process owns: it was there, so it was removed.

    Raises:
        OSError: a folder cannot be created, or the run folder is missing.
    """
    owned = next((owned for owned in _owned if folder.absolute().is_relative_to(owned)), None)
    if owned is None:
        folder.mkdir(parents=True, exist_ok=True)
        return
    inside = folder.absolute().relative_to(owned).parts
    for depth in range(1, len(inside) + 1):
        owned.joinpath(*inside[:depth]).mkdir(exist_ok=True)


@contextmanager
def explain_loss(folder: Path) -> Iterator[None]:
    """Say in one line that a remembered run folder was removed, instead of which file was missed first.

    Raises:
        UserError: whatever went wrong in the block went wrong in a folder that this process owns no longer.
    """
    try:
        yield
    except Exception as error:
        if is_lost(folder):
            raise _lost(folder) from error
        raise


def _lost(folder: Path) -> UserError:
    return UserError(f"{folder} was removed while this run was at work in it; nothing more is written; repeat the command")


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder / LOCK)
    return status.st_dev, status.st_ino
