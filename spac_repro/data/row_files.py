"""Files of rows: JSON lines, a JSON list, CSV, TSV and Parquet, each read row by row within limits of memory."""

import csv
import gzip
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

from spac_repro.data.columns import READ_COLUMNS, check_header
from spac_repro.documents import parquet, strict_json
from spac_repro.documents.errors import one_line
from spac_repro.documents.text import check_no_lfs_pointer, decode_utf8
from spac_repro.errors import UserError

MAX_LINE_BYTES = 1 << 26  # of a row; larger ones are no text that anyone wrote
ONE_A_LINE = "each line must be one JSON object"
GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
BOM = "\ufeff"  # a byte order mark


class Record(NamedTuple):
    """A row as it is stored.

    Attributes:
        where: its location, for errors.
        row: its content; of the columns, those that may be read.
        columns: the names of all its columns; None: the keys of `row`.
    """

    where: str
    row: object
    columns: tuple[str, ...] | None = None


Records = Generator[Record, None, None]


def read(path: Path) -> Records:
    """Read the rows of a file, whose name says the format; whether it is gzipped, its first bytes say.

    Raises:
        UserError: the file cannot be read, or its name ends otherwise. The rows raise UserError, too.
    """
    with reading(path):
        check_no_lfs_pointer(path)
    for suffix, reader in _READERS.items():
        if _suffix(path) == suffix:
            return reader(path)
    raise UserError(f"{path}: unknown file type; use one of {', '.join(SUFFIXES)}; all but .parquet may be gzipped")


def has_suffix(path: Path) -> bool:
    """Whether a file's name ends as that of a format does, in any case, with or without `.gz`."""
    return _suffix(path) in _READERS


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn errors of reading a file into errors for the user."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a truncated or damaged gzip file ({one_line(error)}); copy or download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from error


def _suffix(path: Path) -> str:
    name = path.name.lower()
    shorter = name.removesuffix(".gz")
    return Path(name if shorter.endswith(PARQUET) else shorter).suffix


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(len(GZIP)) == GZIP
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip else path.open("rb")


def _lines(file: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends, each of a bounded size."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
        _check_size(line, MAX_LINE_BYTES, f"{path}, line {number}")
        yield decode_utf8(line, str(path), number)


def _check_size(data: bytes, limit: int, where: str, remedy: str = "") -> None:
    """A short compressed file may unfold to more than the memory holds."""
    if len(data) > limit:
        raise UserError(f"{where}: larger than {limit:,} bytes{remedy or '; check that this is the right file'}")


# JSON


def _json_lines(path: Path) -> Records:
    with reading(path), _open(path) as file:
        for number, text in enumerate(_lines(file, path), start=1):
            row = text.removeprefix(BOM)  # files that were joined have one at each beginning
            if row.strip():
                yield Record(f"{path}, line {number}", strict_json.parse(row, str(path), line=number, remedy=ONE_A_LINE))


def _json_array(path: Path) -> Records:
    with reading(path), _open(path) as file:
        data = file.read(strict_json.MAX_BYTES + 1)
    _check_size(data, strict_json.MAX_BYTES, str(path), remedy="; write one object a line, into a file named .jsonl")
    text = decode_utf8(data, str(path))
    if not text.strip():
        return
    rows = strict_json.parse(text, str(path), list, remedy="the rows must be one list; name a file with one object a line .jsonl")
    for number, row in enumerate(rows, start=1):
        yield Record(f"{path}, row {number}", row)


# Tables. The standard library's reader leaves every cell as it is; others turn "4" into a number and "NA" into nothing.


def _table_rows(path: Path, *, delimiter: str) -> Records:
    csv.field_size_limit(MAX_LINE_BYTES)  # of the process; the default refuses long responses
    with reading(path), _open(path) as file:
        lines = _TableLines(_lines(file, path), path)
        try:
            cells = csv.reader(lines, delimiter=delimiter, strict=True)
            header = tuple(next(filter(None, cells), ()))
            if not header:
                return
            check_header(header, f"{path}, line {lines.number}")
            first = lines.start_record()
            for row in cells:
                if row:
                    yield Record(f"{path}, line {first}", _by_column(row, header, f"{path}, line {first}"))
                first = lines.start_record()
        except csv.Error as error:
            problem, remedy = one_line(error), "check the quotes"
            if "new-line character" in problem:
                problem, remedy = "a carriage return alone ends no line", "save it with line ends of Unix or Windows"
            raise UserError(f"{path}, line {lines.number}: no well-formed table ({problem}); {remedy}") from None


class _TableLines:
    """The lines of a table. The size of a record is bounded as well: quotes join lines."""

    def __init__(self, lines: Iterator[str], path: Path) -> None:
        self._lines, self._path, self._record_characters = lines, path, 0
        self.number = 0

    def start_record(self) -> int:
        """Note that a record begins; return the number of its line."""
        self._record_characters = 0
        return self.number + 1

    def __iter__(self) -> "_TableLines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self._record_characters += len(line)
        if self._record_characters > MAX_LINE_BYTES:
            raise UserError(
                f"{self._path}, line {self.number}: a row is larger than {MAX_LINE_BYTES:,} characters; check the quotes"
            )
        return line


def _by_column(row: list[str], header: tuple[str, ...], where: str) -> dict[str, str]:
    if len(row) != len(header):
        raise UserError(f"{where}: has {len(row)} cells, and the header {len(header)}; put cells with commas or tabs in quotes")
    return dict(zip(header, row, strict=True))


# Parquet


def _parquet_rows(path: Path) -> Records:
    names = parquet.column_names(path)
    for number, row in enumerate(parquet.rows(path, sorted(READ_COLUMNS)), start=1):
        yield Record(f"{path}, row {number}", row, names)


PARQUET = ".parquet"
_READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": partial(_table_rows, delimiter=","),
    ".tsv": partial(_table_rows, delimiter="\t"),
    PARQUET: _parquet_rows,
}
SUFFIXES = tuple(_READERS)
