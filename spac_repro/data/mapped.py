"""Rows that lie in a file and not in memory: written batch by batch, read one by one.

The file has no name: it goes with its last reader, however that ends. It lies where the system's temporary files do (TMPDIR).
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

BATCH = 1024  # rows in memory at once while a table is made


class Column(Sequence[T], Generic[T]):
    """A column of a table as the values of its rows; each is made when it is asked for."""

    def __init__(self, column: "pa.ChunkedArray", value: Callable[["pa.Scalar"], T]) -> None:
        self._column = column
        self._value = value

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> list[T]: ...
    def __getitem__(self, row: int | slice) -> T | list[T]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        return self._value(self._column[row])

    def lengths(self) -> list[int]:
        """Of the values, without touching them."""
        import pyarrow.compute as pc

        lengths: list[int] = pc.list_value_length(self._column).to_pylist()
        return lengths

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list's


def table(batches: Iterable["pa.RecordBatch"], schema: "pa.Schema") -> "pa.Table":
    """The batches as one table, mapped from a file.

    Raises:
        UnfitEnvironmentError: there is no room for it.
    """
    import pyarrow as pa

    with _temporary() as file:
        sink = pa.ipc.new_file(file, schema)
        for batch in batches:
            with _room():
                sink.write_batch(batch)
        with _room():
            sink.close()
            file.flush()
            buffer = pa.py_buffer(mmap(file.fileno(), 0, access=ACCESS_READ))
        return pa.ipc.open_file(buffer).read_all()


@contextmanager
def _temporary() -> Iterator[IO[bytes]]:
    with _room():
        file = tempfile.TemporaryFile()  # noqa: SIM115  # its own closing would fail once more where the disk is full
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnfitEnvironmentError(
            f"cannot write temporary files in {tempfile.gettempdir()}: {error.strerror or error}; make room, or name another "
            "folder with TMPDIR"
        ) from error


def tokens(column: "pa.ChunkedArray") -> Column[list[int]]:
    """The rows of a column of lists of tokens."""
    return Column(column, lambda row: row.values.to_numpy().tolist())


def token_columns(rows: Iterable[Sequence[Sequence[int]]], names: Sequence[str]) -> dict[str, Column[list[int]]]:
    """Columns of tokens, by name, from rows that hold a text in tokens for each name."""
    import pyarrow as pa

    kind = pa.list_(pa.int32())

    def batches() -> Iterator["pa.RecordBatch"]:
        for batch in batched(rows):
            yield pa.record_batch([pa.array(column, kind) for column in zip(*batch, strict=True)], names=list(names))

    made = table(batches(), pa.schema([(name, kind) for name in names]))
    return {name: tokens(made.column(name)) for name in names}


def lengths(rows: Sequence[Sequence[int]]) -> list[int]:
    """Of each row, whether it lies in memory or in a file."""
    return rows.lengths() if isinstance(rows, Column) else [len(row) for row in rows]


def batched(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Some items at a time, as many as are to be in memory at once."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
