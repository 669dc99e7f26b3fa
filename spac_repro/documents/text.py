"""Read a file as UTF-8 text of a bounded size."""

from pathlib import Path

from spac_repro.documents.errors import user_error


def read_text(path: Path, *, max_bytes: int, missing_file_remedy: str = "") -> str:
    """Read the text of a file, with or without a byte order mark.

    Raises:
        UserError: The file is missing (with `missing_file_remedy`), cannot be read, is larger than `max_bytes` bytes, or is not
            UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise user_error(str(path), "no such file", remedy=missing_file_remedy) from None
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise user_error(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > max_bytes:
        raise user_error(str(path), f"larger than {max_bytes:,} bytes", remedy="check that this is the right file")
    refuse_lfs_pointer(data, str(path))
    return decode_utf8(data, str(path))


LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_no_lfs_pointer(path: Path) -> None:
    """Check that a file is not the pointer that Git leaves in its place where Git LFS is not installed.

    Raises:
        UserError: The file is a pointer.
    """
    if path.is_file():
        with path.open("rb") as file:
            refuse_lfs_pointer(file.read(len(LFS_POINTER)), str(path))


def refuse_lfs_pointer(start: bytes, where: str) -> None:
    """Raise UserError where a file begins like a Git LFS pointer."""
    if start.startswith(LFS_POINTER):
        raise user_error(where, "a Git LFS pointer, and not the file itself", remedy="fetch the file with `git lfs pull`")


def decode_utf8(data: bytes, where: str, line: int | None = None) -> str:
    """Decode UTF-8 bytes. A byte order mark is dropped where a document begins; elsewhere it is text.

    Args:
        data: The bytes of a document, or of one line of it.
        where: The document's name, for errors.
        line: The line's number, where `data` is one line.

    Raises:
        UserError: The bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        line = line or data.count(b"\n", 0, error.start) + 1
        raise user_error(where, f"not UTF-8 at byte {error.start}", line=line, remedy="save it as UTF-8") from None
