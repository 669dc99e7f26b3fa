"""Write files and folders atomically, and turn disk errors into errors of one line."""

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
from spac_repro.errors import UserError
from spac_repro.runs import ownership, system_errors

PARTIAL = ".partial"  # suffix of temporary files and folders


Hook = Callable[[Path], None]


def no_hook(path: Path) -> None:
    """Do nothing."""


@contextmanager
def atomic_file(path: Path, *, before_rename: Hook = no_hook, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file for atomic writing: it is written to a temporary file, synced, and renamed when the block ends.

    Args:
        path: The file; its folders are created.
        before_rename: Called with the path of the complete temporary file.
        mode: The file's permissions, of which the umask takes some away.

    Raises:
        UserError: `path` is in a run folder that this process owned and no longer owns.
    """
    ownership.check(path)  # before a folder is made in another run's
    _make_room(path)
    temporary = _temporary(path)
    try:
        # O_EXCL: the name is new, so no link that somebody left there is followed.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
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


def write_bytes(path: Path, content: bytes, *, before_rename: Hook = no_hook, mode: int = 0o666) -> None:
    """Write a file atomically. For `before_rename`, `mode` and errors, see `atomic_file`."""
    with atomic_file(path, before_rename=before_rename, mode=mode) as file:
        file.write(content)


def write_json(path: Path, content: Any, *, before_rename: Hook = no_hook, mode: int = 0o666) -> None:
    """Write a JSON file atomically. Equal content gives equal bytes.

    Raises:
        UserError: a number is not finite.
    """
    try:
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        raise UserError(f"{path}: a number in it is not finite, so it is not written") from None
    write_bytes(path, text.encode(), before_rename=before_rename, mode=mode)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        UserError: The file is missing, or is not JSON.
    """
    missing_file_remedy, remedy = f"is {path.parent} a run folder?", "the file was changed by hand or by another program"
    return strict_json.read(path, missing_file_remedy=missing_file_remedy, remedy=remedy)


def check_schema(path: Path, content: Mapping[str, Any], newest: int) -> None:
    """Check that this version can read the content of a file. A file without `schema` has schema 1.

    Args:
        path: The file, for errors.
        content: What the file contains.
        newest: The newest schema that this version reads.

    Raises:
        UserError: The schema is newer, or is not a valid number.
    """
    schema = content.get("schema", 1)
    if type(schema) is not int or schema < 1:
        raise UserError(f"{path}: schema is {one_line(repr(schema), 40)}, which no version wrote; the file was changed by hand")
    if schema > newest:
        raise UserError(f"{path}: schema {schema} needs a newer version of spac-repro (this one reads up to {newest}); update it")


@contextmanager
def atomic_folder(path: Path, *, before_rename: Hook = no_hook) -> Iterator[Path]:
    """Create a folder atomically: the block fills a temporary folder, which is synced and renamed when the block ends.

    Args:
        path: The folder; an existing one is replaced.
        before_rename: Called with the path of the complete temporary folder.

    Raises:
        UserError: `path` is in a run folder that this process owned and no longer owns.
    """
    ownership.check(path)  # before a folder is made in another run's
    _make_room(path, folder=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        mode = temporary.stat().st_mode & 0o666  # as the umask made it
        for entry in temporary.rglob("*"):
            if entry.is_dir():
                _sync_folder(entry)
            else:
                entry.chmod(mode)  # safetensors writes 0600, whatever the umask is
                sync_file(entry)
        _sync_folder(temporary)
        before_rename(temporary)
        ownership.check(path)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _make_room(path: Path, *, folder: bool = False) -> None:
    """Create the folders above a path, and check that nothing of another kind lies at it.

    Raises:
        UserError: a file lies where a folder is needed, or a folder where a file is.
    """
    try:
        ownership.make_folder(path.parent)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path.parent}: a folder is needed here, and a file is in its place; remove it and repeat") from None
    if folder and path.exists() and not path.is_dir():
        raise UserError(f"{path}: a folder is needed here, and a file is in its place; remove it and repeat the command")
    if not folder and path.is_dir():
        raise UserError(f"{path}: a file is needed here, and a folder is in its place; remove it and repeat the command")


def _temporary(path: Path) -> Path:
    """Return an unguessable name in the folder of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def remove_partial(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left below a folder."""
    for entry in sorted(folder.rglob(f".*{PARTIAL}")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def write_sealed_json(path: Path, content: Any, *, computed_from: Mapping[str, Any]) -> None:
    """Write JSON with its hash and with the inputs that it was computed from.

    Args:
        path: The file.
        content: The content.
        computed_from: What identifies the inputs. `read_sealed_json` accepts the file for equal inputs only.
    """
    sealed = {"content": content, "computed_from": dict(computed_from)}
    write_json(path, {**sealed, "sha256": sha256_json(sealed)})


def read_sealed_json(path: Path, *, computed_from: Mapping[str, Any]) -> Any:
    """Read the content of a file that `write_sealed_json` wrote.

    Raises:
        UserError: The file cannot be read, was changed, or was computed from other inputs.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.keys() != {"content", "computed_from", "sha256"}:
        raise UserError(f"{path}: not a file of this version of spac-repro; remove it and repeat the command")
    if found.pop("sha256") != sha256_json(found):
        raise UserError(f"{path}: its hash is not the one written in it; remove it and repeat the command")
    if found["computed_from"] != dict(computed_from):
        raise UserError(f"{path}: it was computed by another run, or from other weights; remove it and repeat the command")
    return found["content"]


def sha256_json(content: Any) -> str:
    """Return the SHA-256 of a value, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def explain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk or of the operating system into an error of one line about `folder`.

    Raises:
        UnfitEnvironmentError: The disk is full, not writable or failing, or the system refuses what a run needs.
    """
    try:
        yield
    except UserError:
        raise  # its message says already what is wrong
    except Exception as error:
        explained = system_errors.explain(error, str(folder))
        if explained is None:
            raise
        raise explained from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file. The file is not read into memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Bring a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
