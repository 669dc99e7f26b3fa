"""How files come to exist: whole or not at all; and what is said where a disk does not take them."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.errors import UnfitEnvironmentError, UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
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
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all, in a form that is equal for equal content."""
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


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
def atomic_folder(path: Path) -> Iterator[Path]:
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
