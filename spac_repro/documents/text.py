"""A file's text: UTF-8, of a bounded size, or refused in one line."""

from pathlib import Path

from spac_repro.documents.message import refusal


def read_text(path: Path, *, most: int, absent: str = "") -> str:
    """The text of a file of at most `most` bytes, with or without a byte order mark.

    `absent` is the remedy where there is no such file.

    Raises:
        UserError: it cannot be read, is larger, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise refusal(str(path), "no such file", remedy=absent) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise refusal(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > most:
        raise refusal(str(path), f"larger than {most:,} bytes, so it is not what it should be", remedy="look at what wrote it")
    return decoded(data, str(path))


def decoded(data: bytes, where: str, line: int | None = None) -> str:
    """The text of UTF-8 bytes, with or without a byte order mark.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = line or data.count(b"\n", 0, error.start) + 1
        raise refusal(where, f"not UTF-8 at byte {error.start}", line=line, remedy="save it as UTF-8") from None
