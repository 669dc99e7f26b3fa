"""Columns that are memory-mapped from a file: written in batches of rows, read row by row.

The file has no name, so it disappears with its last reader, however that ends. It lies in the system's temporary folder (TMPDIR).
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from mmap import ACCESS_READ, mmap
from operator import eq
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, overload

from spac_repro.errors import UnfitEnvironmentError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

# docs/decisions/09-mapped-rows.md: why rows are in memory-mapped files.
BATCH_ROWS = 1024  # rows in memory at once while a table is written


class MappedColumn(Sequence[T], Generic[T]):
    """The rows of a memory-mapped column; each value is decoded when it is read."""

    def __init__(self, column: "pa.ChunkedArray", decode: Callable[["pa.Scalar"], T]) -> None:
        self._column = column
        self._decode = decode

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> list[T]: ...
    def __getitem__(self, row: int | slice) -> T | list[T]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self._decode(self._column[row])

    def lengths(self) -> list[int]:
        """Return the length of every row of a list column, without reading the rows."""
        import pyarrow.compute as pc

        lengths: list[int] = pc.list_value_length(self._column).to_pylist()
        return lengths

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # unhashable, like a list


def write_table(batches: Iterable["pa.RecordBatch"], schema: "pa.Schema") -> "pa.Table":
    """Write batches to a temporary file and return them as one memory-mapped table.

    Raises:
        UnfitEnvironmentError: the file cannot be written, for instance because the disk is full.
    """
    import pyarrow as pa

    with _temporary_file() as file:
        sink = pa.ipc.new_file(file, schema)
        for batch in batches:
            with _disk_errors():
                sink.write_batch(batch)
        with _disk_errors():
            sink.close()
            file.flush()
            buffer = pa.py_buffer(mmap(file.fileno(), 0, access=ACCESS_READ))
        return pa.ipc.open_file(buffer).read_all()


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    with _disk_errors():
        file = tempfile.TemporaryFile()  # noqa: SIM115  # a `with` would raise a second error where the disk is full
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnfitEnvironmentError(
            f"cannot write temporary files in {tempfile.gettempdir()}: {error.strerror or error}; free some space, or "
            "set TMPDIR to another folder"
        ) from error


def token_column(column: "pa.ChunkedArray") -> MappedColumn[list[int]]:
    """Return a column of token ids; each row is decoded as a list."""
    return MappedColumn(column, lambda row: row.values.to_numpy().tolist())


def token_columns(rows: Iterable[Sequence[Sequence[int]]], names: Sequence[str]) -> dict[str, MappedColumn[list[int]]]:
    """Write rows of token ids to a memory-mapped table.

    Args:
        rows: for each row one sequence of token ids per name.
        names: of the columns.

    Returns:
        The columns by name.

    Raises:
        UnfitEnvironmentError: the file cannot be written, for instance because the disk is full.
    """
    import pyarrow as pa

    token_list = pa.list_(pa.int32())

    def batches() -> Iterator["pa.RecordBatch"]:
        for batch in batched(rows):
            yield pa.record_batch([pa.array(column, token_list) for column in zip(*batch, strict=True)], names=list(names))

    table = write_table(batches(), pa.schema([(name, token_list) for name in names]))
    return {name: token_column(table.column(name)) for name in names}


def lengths(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the length of every row, in memory or memory-mapped."""
    return rows.lengths() if isinstance(rows, MappedColumn) else [len(row) for row in rows]


def batched(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the items in batches of `BATCH_ROWS`."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH_ROWS)):
        yield batch
