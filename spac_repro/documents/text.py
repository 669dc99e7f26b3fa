"""A file's text: UTF-8, of a bounded size, or refused in one line."""

from pathlib import Path

from spac_repro.documents.errors import user_error


def read_text(path: Path, *, max_bytes: int, missing_file_remedy: str = "") -> str:
    """The text of a file of at most `max_bytes` bytes, with or without a byte order mark.

    `missing_file_remedy` is the remedy where there is no such file.

    Raises:
        UserError: it cannot be read, is larger, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise user_error(str(path), "no such file", remedy=missing_file_remedy) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise user_error(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > max_bytes:
        raise user_error(
            str(path), f"larger than {max_bytes:,} bytes, so it is not what it should be", remedy="look at what wrote it"
        )
    return decode_utf8(data, str(path))


def decode_utf8(data: bytes, where: str, line: int | None = None) -> str:
    """The text of UTF-8 bytes, with or without a byte order mark.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = line or data.count(b"\n", 0, error.start) + 1
        raise user_error(where, f"not UTF-8 at byte {error.start}", line=line, remedy="save it as UTF-8") from None
