"""The sizes of a Parquet file's columns, from its footer.

pyarrow has them as well, but a damaged footer can make its `RowGroupMetaData.column` end the process: the C++ error is not caught.

The footer is a struct in Thrift's compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md);
its fields have the numbers of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAX_BYTES = 1 << 25
MAX_DEPTH = 32
MAGIC = b"PAR1"
ROW_GROUPS, COLUMNS, ROWS, META_DATA, PATH, VALUES, BYTES = 4, 1, 3, 3, 3, 5, 6  # numbers of the fields


class ColumnChunk(NamedTuple):
    """The part of a column that is in one row group.

    Attributes:
        rows: of the row group.
        column: name of the column; of a nested one, that of its root.
        values: number of values, at the leaf.
        bytes: size, uncompressed.
    """

    rows: int
    column: str
    values: int
    bytes: int


def column_chunks(path: Path) -> Iterator[ColumnChunk]:
    """Yield the chunks of all columns of all row groups; of a nested column, those of all leaves.

    Raises:
        ValueError: the footer is damaged, or has more than `MAX_BYTES`.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or length > min(size - 8, MAX_BYTES):
            raise ValueError("no Parquet footer")
        file.seek(size - 8 - length)
        reader = _CompactReader(file.read(length))
    try:
        for group in reader.struct()[ROW_GROUPS]:
            for chunk in group[COLUMNS]:
                found = chunk[META_DATA]
                yield ColumnChunk(int(group[ROWS]), bytes(found[PATH][0]).decode(), int(found[VALUES]), int(found[BYTES]))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"a damaged footer ({type(error).__name__})") from None


class _CompactReader:
    """Reads Thrift's compact protocol: a struct as a dict by field number, a list as a list, a text as bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position, self._depth = data, 0, 0
        self._readers: dict[int, Callable[[], Any]] = {
            **dict.fromkeys((4, 5, 6), self._zigzag),
            3: lambda: self._take(1),
            7: lambda: self._take(8),
            8: lambda: self._take(self._varint()),
            **dict.fromkeys((9, 10), self._list),
            11: self._map,
            12: self.struct,
        }

    def struct(self) -> dict[int, Any]:
        """Read a struct."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("a footer that is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)  # a field's type tells true from false
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (1, 2):
            return self._byte() == 1
        if kind not in self._readers:
            raise ValueError(f"a footer with the unknown type {kind}")
        return self._readers[kind]()

    def _list(self) -> list[Any]:
        head = self._byte()
        number = head >> 4 if head >> 4 < 15 else self._varint()
        return [self._value(head & 15) for _ in range(number)]

    def _map(self) -> dict[Any, Any]:
        number = self._varint()
        kinds = self._byte() if number else 0
        return {self._value(kinds >> 4): self._value(kinds & 15) for _ in range(number)}

    def _take(self, number: int) -> bytes:
        if number > len(self._data) - self._position:
            raise ValueError("a footer that ends too early")
        self._position += number
        return self._data[self._position - number : self._position]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a footer with a number that is too large")
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
