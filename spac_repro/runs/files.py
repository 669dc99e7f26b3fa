"""The run folder: what identifies a run, what it measured, and how its files come to exist.

manifest.json      identity: settings, inputs, environment; no clock times, no host names, no absolute paths
timing.json        clocks, throughput, peak memory, machine: what may differ between equal runs
metrics.jsonl      one line an optimiser step
iteration-<t>/     the iterate: selfplay.parquet, policy/, scores.json, and training state while unfinished
results.json       scores per iteration; weights_sha256 of the last iterate
verdict.json       what verification said
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from spac_repro.documents import strict_json
from spac_repro.errors import UnfitEnvironmentError, UserError

SCHEMA = 1
IDENTITY = ("recipe", "method", "seed", "settings", "inputs")  # of a run, what tells most first


@dataclass(frozen=True)
class Score:
    """One measured number."""

    task: str  # "gold", "mini_arc", "arc_challenge", …
    metric: str  # "reward", "acc_norm", "mc2", …
    value: float
    stderr: float | None
    n: int  # items behind the value
    version: str = ""  # the task's version as the harness states it; empty for our own metrics
    higher_is_better: bool = True
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with new_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all, in a form that is equal for equal content."""
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; a file that is missing or is not JSON is the user's to know about."""
    absent, remedy = f"is {path.parent} a run folder?", "the file was changed by hand or by another program"
    return strict_json.read(path, absent=absent, remedy=remedy)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole or not at all: it is filled beside its place, synced, and renamed into it."""
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync_file(file)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say in one line that the disk is full or not writable, instead of where in the code that was noticed."""
    try:
        yield
    except UserError:
        raise  # it says already what is wrong
    except Exception as error:
        if not _is_disk_error(error):
            raise
        raise UnfitEnvironmentError(
            f"cannot write to {folder}: {_reason(error)}; what was finished is kept, so make room and repeat the command"
        ) from error


def _is_disk_error(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    # Libraries that write from Rust or C++ turn the system's error into text.
    return any(words in str(error) for words in ("No space left on device", "os error 28"))


def _reason(error: BaseException) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "No space left on device"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
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
    owner = folder / ".owner.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use{_by(owner)}; wait for it, or choose another folder with --out") from None
    try:
        write_json(owner, {"process": os.getpid(), "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename})
        yield
    finally:
        owner.unlink(missing_ok=True)
        if not (folder / "manifest.json").exists():
            (folder / ".lock").unlink(missing_ok=True)
            for path in made:
                with suppress(OSError):  # something else is in it by now
                    path.rmdir()
        lock.release()


def _by(owner: Path) -> str:
    try:
        who = json.loads(owner.read_text())
        return f" by process {who['process']} on {who['node']}"
    except (OSError, ValueError, KeyError):
        return ""


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two trees differ: dotted key, the old and the new value (None where there is none)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield prefix.removesuffix("."), old, new


def claim(folder: Path, manifest: dict[str, Any], *, allow_changed_environment: bool) -> None:
    """Write the manifest of a new run, or check that a folder holds this very run.

    A run carried on in a changed environment gets a segment for each; its claim to equal bits is withdrawn. A finished one is only
    looked at, so its environment may be another.

    Raises:
        UserError: the folder holds another run, or the environment changed and that was not allowed.
    """
    path = folder / "manifest.json"
    if not path.exists():
        if any(entry for entry in folder.iterdir() if not _is_ours(entry)):
            raise UserError(f"{folder} holds files but no manifest.json: it is not a run folder; choose another with --out")
        write_json(path, manifest)
        return
    there = read_json(path)
    if there.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {there.get('schema')!r} is not {SCHEMA}; it was made by another version of spac-repro")
    for part in IDENTITY:
        for key, old, new in differences({part: there.get(part)}, {part: manifest.get(part)}):
            raise UserError(
                f"{folder} was made by another run: {key} is {old!r} there and {new!r} here; choose another folder with --out"
            )
    if not (folder / "results.json").exists():
        _continue_in(path, there, manifest["environment"], allow_changed_environment)


def _is_ours(entry: Path) -> bool:
    """Whether an entry may lie in a folder before its manifest: the lock's files, and what a kill left of a file half written."""
    return entry.name in (".lock", ".owner.json") or (entry.name.startswith(".") and entry.name.endswith(".partial"))


def _continue_in(path: Path, there: dict[str, Any], environment: dict[str, Any], allowed: bool) -> None:
    segments = there.get("segments", [])
    last = segments[-1] if segments else there.get("environment")
    changed = list(differences(last, environment))
    if not changed:
        return
    key, old, new = changed[0]
    if not allowed:
        raise UserError(
            f"{path.parent} was begun in another environment: {key} was {old!r} and is {new!r}; "
            "go on with --allow-changed-environment (the run then no longer claims equal bits), or choose another folder with --out"
        )
    write_json(path, {**there, "segments": [*segments, environment], "equal_bits_claimed": False})


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
