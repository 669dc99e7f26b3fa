"""Who is at work in a run folder: one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.runs import ownership
from spac_repro.runs.files import write_json
from spac_repro.runs.ownership import LOCK

OWNER = ".owner.json"


@contextmanager
def exclusive_access(folder: Path) -> Iterator[None]:
    """Own a run folder while the block runs.

    The lock is the kernel's on an open file, so it dies with its process, however that ends; no stale lock can stay. A folder that
    has not become a run folder in the end (bad input, another's files) is left as it was found.

    Raises:
        UserError: another process is at work in the folder, or there can be no such folder.
    """
    from filelock import FileLock, Timeout

    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} cannot be a run folder: a file stands in its way; choose another folder with --out") from None
    owner = folder / OWNER
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use{_by(owner)}; wait for it, or choose another folder with --out") from None
    try:
        ownership.begin(folder)
        write_json(owner, {"process": os.getpid(), "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename})
        yield
    finally:
        if ownership.holds(folder):  # else another run's files may lie there by now
            owner.unlink(missing_ok=True)
            if not (folder / "manifest.json").exists():
                (folder / LOCK).unlink(missing_ok=True)
                for path in made:
                    with suppress(OSError):  # something else is in it by now
                        path.rmdir()
        ownership.end(folder)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether some process owns an existing folder. Asking takes the lock for a moment."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def owner_is_alive(folder: Path) -> bool:
    """Whether the process that wrote itself down as the owner runs on this machine."""
    try:
        os.kill(int(strict_json.read(folder / OWNER, dict)["process"]), 0)
    except (OSError, ValueError, KeyError, UserError):
        return False
    return True


def _by(owner: Path) -> str:
    try:
        who = strict_json.read(owner, dict)
        return f" by process {who['process']} on {who['node']}"
    except (KeyError, UserError):
        return ""
