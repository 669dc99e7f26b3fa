"""How files come to exist: whole or not at all; and what is said where a disk does not take them."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.runs import ownership

PARTIAL = ".partial"  # how the names of temporary files and folders end


Hook = Callable[[Path], None]


def no_hook(path: Path) -> None:
    """The hook that does nothing."""


@contextmanager
def atomic_file(path: Path, *, before_rename: Hook = no_hook) -> Iterator[BinaryIO]:
    """Write a file that appears only when it is complete: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file; its folders are created.
        before_rename: gets the path of the complete temporary file.

    Raises:
        UserError: `path` lies in a run folder that this process owned and owns no longer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        # O_EXCL: the name is new, so no link that somebody left there is followed.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        before_rename(temporary)
        ownership.check(path)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes, *, before_rename: Hook = no_hook) -> None:
    """Write a file, whole or not at all."""
    with atomic_file(path, before_rename=before_rename) as file:
        file.write(content)


def write_json(path: Path, content: Any, *, before_rename: Hook = no_hook) -> None:
    """Write JSON, whole or not at all, in a form that is equal for equal content."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(), before_rename=before_rename)


def read_json(path: Path) -> Any:
    """Read JSON; a file that is missing or is not JSON is the user's to know about."""
    missing_file_remedy, remedy = f"is {path.parent} a run folder?", "the file was changed by hand or by another program"
    return strict_json.read(path, missing_file_remedy=missing_file_remedy, remedy=remedy)


def check_schema(path: Path, found: Mapping[str, Any], newest: int) -> None:
    """See that a file, whose content this is, is of a version that is read here, if it says of which it is.

    Raises:
        UserError: it is of a newer one, or says what no version says.
    """
    schema = found.get("schema", 1)
    if type(schema) is not int or schema < 1:
        raise UserError(f"{path}: schema is {one_line(repr(schema), 40)}, which no version wrote; the file was changed by hand")
    if schema > newest:
        raise UserError(f"{path}: schema {schema} is of a newer version of spac-repro (this one reads {newest}); update it")


@contextmanager
def atomic_folder(path: Path, *, before_rename: Hook = no_hook) -> Iterator[Path]:
    """Write a folder that appears only when it is complete: it is filled beside its place, synced, and renamed.

    Args:
        path: the folder.
        before_rename: gets the path of the complete temporary folder.

    Raises:
        UserError: `path` lies in a run folder that this process owned and owns no longer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            if entry.is_dir():
                _sync_folder(entry)
            else:
                _sync_file(entry)
        _sync_folder(temporary)
        before_rename(temporary)
        ownership.check(path)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary(path: Path) -> Path:
    """A name beside `path` that nobody can guess."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def remove_partial(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left below a folder."""
    for entry in sorted(folder.rglob(f".*{PARTIAL}")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def write_sealed_json(path: Path, content: Any, *, bound_to: Mapping[str, Any]) -> None:
    """Write JSON with its hash, and with what it was computed from: `read_sealed_json` believes it for nothing else."""
    sealed = {"content": content, "bound_to": dict(bound_to)}
    write_json(path, {**sealed, "sha256": sha256_json(sealed)})


def read_sealed_json(path: Path, *, bound_to: Mapping[str, Any]) -> Any:
    """Read what `write_sealed_json` wrote.

    Raises:
        UserError: it cannot be read, was changed, or was computed from something else.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.keys() != {"content", "bound_to", "sha256"}:
        raise UserError(f"{path}: not a file of this version of spac-repro; remove it and repeat the command")
    if found.pop("sha256") != sha256_json(found):
        raise UserError(f"{path}: its hash is not the one written in it; remove it and repeat the command")
    if found["bound_to"] != dict(bound_to):
        raise UserError(f"{path}: it was computed by another run, or from other weights; remove it and repeat the command")
    return found["content"]


def sha256_json(content: Any) -> str:
    """SHA-256 of a value, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def explain_disk_errors(folder: Path) -> Iterator[None]:
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
