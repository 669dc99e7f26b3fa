"""Errors of the operating system as errors of one line: what it refused, where, and what to do."""

import errno
import os
import re

from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError

_MAKE_ROOM = "make room and repeat the command: finished work is kept"
_CHECK_DISK = "check the disk or its mount, and repeat the command: finished work is kept"
_CHECK_RIGHTS = "check owner and rights, or choose another folder"
_OTHER_DISK = "this file system lacks what a run needs; choose a folder on another disk"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), or choose another disk",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: _CHECK_RIGHTS,
    errno.EPERM: _CHECK_RIGHTS,
    errno.EIO: _CHECK_DISK,
    errno.ESTALE: _CHECK_DISK,
    errno.ENODEV: _CHECK_DISK,
    errno.ENOTCONN: _CHECK_DISK,
    errno.ETIMEDOUT: _CHECK_DISK,
    errno.EMFILE: "raise the limit on open files (`ulimit -n 4096`)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.ENOLCK: _OTHER_DISK,
    errno.EOPNOTSUPP: _OTHER_DISK,
    errno.ENOSYS: _OTHER_DISK,
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of the path is a file; name another",
    errno.EEXIST: "a file is in the place of a folder; name another",
    errno.ENOENT: "check that the path exists and was not removed",
    errno.EAGAIN: "raise the limit on processes (`ulimit -u`)",
    errno.ENOMEM: "this machine has too little memory",
}
_IN_TEXT = re.compile(r"\(os error (\d+)\)")  # as libraries in Rust report the system's errors


def explain(error: BaseException, folder: str = "") -> UnfitEnvironmentError | None:
    """Say in one line what the operating system refused.

    Args:
        error: The error, possibly one of a library that reports the system's error as text.
        folder: What was being written to; empty: the file that the error names.

    Returns:
        The error for the user; None for an error that is not the system's.
    """
    if isinstance(error, MemoryError):
        return UnfitEnvironmentError("out of memory; use smaller batches or a smaller model, or a machine with more memory")
    number = _number(error)
    if number not in _REMEDIES:
        return None
    place = getattr(error, "filename", None)
    where = f"cannot write to {folder}" if folder else one_line(str(place), 120) if place else "the system refused a call"
    return UnfitEnvironmentError(f"{where}: {os.strerror(number)}; {_REMEDIES[number]}")


def _number(error: BaseException) -> int:
    """Return the errno of an error; 0 where it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    if found := _IN_TEXT.search(str(error)):
        return int(found[1])
    return errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else 0
