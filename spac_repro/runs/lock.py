"""The lock of a run folder: one process at a time works in it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.runs import access, ownership, system_errors
from spac_repro.runs.files import write_json
from spac_repro.runs.ownership import LOCK

if TYPE_CHECKING:
    from filelock import FileLock

OWNER = ".owner.json"


@contextmanager
def exclusive_access(folder: Path) -> Iterator[None]:
    """Create and lock a run folder while the block runs.

    The kernel holds the lock on an open file and releases it when the process ends, however it ends, so no stale lock can remain. A
    folder that does not become a run folder (because of bad input, or because it has other files) is left as it was.

    Raises:
        UserError: Another process has the lock, the folder cannot be created, others can change it, or a link is in it.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} cannot be a run folder: it or a parent is a file; choose another folder with --out") from None
    except OSError as error:
        raise system_errors.explain(error, str(folder)) or error from None
    access.check_own_folder(folder)
    owner = folder / OWNER
    lock = _acquire(folder)
    if lock is None:
        raise UserError(f"{folder} is in use{_by(owner)}; wait for it, or choose another folder with --out")
    try:
        ownership.begin(folder)
        access.check_no_links(folder)
        write_json(owner, {"process": os.getpid(), "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename})
        yield
    finally:
        if ownership.holds(folder):  # otherwise the files may be another run's by now
            owner.unlink(missing_ok=True)
            if not (folder / "manifest.json").exists():
                (folder / LOCK).unlink(missing_ok=True)
                for path in created:
                    with suppress(OSError):  # it is no longer empty
                        path.rmdir()
        ownership.end(folder)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process has the lock of an existing folder. This takes the lock for a moment."""
    lock = _acquire(folder)
    if lock is None:
        return True
    lock.release()
    return False


def _acquire(folder: Path) -> "FileLock | None":
    """Return the lock of a folder; None where another process has it.

    Raises:
        UserError: There is something else in its place, such as a folder or a broken link.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:  # NotImplementedError: filelock's for a file system without locks
        if getattr(error, "errno", None) in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise UserError(f"{folder / LOCK} is not the lock file that a run makes; remove it and repeat the command") from None
        unsupported = OSError(errno.ENOLCK, "") if isinstance(error, NotImplementedError) else error
        raise system_errors.explain(unsupported, str(folder)) or error from None
    return lock


def owner_is_alive(folder: Path) -> bool:
    """Return whether the owner runs on this machine: a process has the lock, and the one that is recorded exists.

    The record alone tells nothing: the number of a process that ended may belong to another process by now.
    """
    try:
        process = strict_json.read(folder / OWNER, dict)["process"]
        if type(process) is not int or process < 1:  # 0 and negative numbers are groups of processes
            return False
        os.kill(process, 0)
    except PermissionError:
        pass  # it exists, and is another user's
    except (OSError, OverflowError, KeyError, UserError):
        return False
    return is_locked(folder)


def _by(owner: Path) -> str:
    try:
        who = strict_json.read(owner, dict)
        return f" by process {who['process']} on {who['node']}"
    except (KeyError, UserError):
        return ""
