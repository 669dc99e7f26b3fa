"""Read the rows of a Parquet file, a few at a time: a small file can unfold to more than the memory holds."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spac_repro.documents import parquet_footer
from spac_repro.documents.errors import one_line
from spac_repro.documents.text import check_no_lfs_pointer
from spac_repro.errors import UserError

MAX_BATCH_BYTES = 1 << 29  # of the rows that are held at a time
MAX_VALUES_PER_ROW = 10_000  # on average in a row group


def rows(path: Path, columns: Sequence[str], *, max_bytes: int | None = None) -> Generator[dict[str, Any], None, None]:
    """Read the rows of a file in their order, and of these columns the ones that it has.

    Args:
        path: The file.
        columns: Names of columns.
        max_bytes: Of all rows together, for a caller that keeps them.

    Raises:
        UserError: The file is no readable Parquet file, or unfolds to more than the limits of this module or `max_bytes`.
    """
    from pyarrow import parquet

    unfolded = 0
    with _readable(path), parquet.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=rows_per_batch(path, there), columns=there):
            unfolded += max(batch.nbytes, batch.num_rows)
            if max_bytes is not None and unfolded > max_bytes:
                raise UserError(f"{path}: unfolds to more than {max_bytes:,} bytes; check that this is the right file")
            yield from batch.to_pylist() if there else ({} for _ in range(batch.num_rows))


def column_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file's columns.

    Raises:
        UserError: The file is no readable Parquet file.
    """
    from pyarrow import parquet

    with _readable(path), parquet.ParquetFile(path) as file:
        return tuple(file.schema_arrow.names)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        check_no_lfs_pointer(path)
        yield
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({one_line(error)}); write or download it again") from error


def rows_per_batch(path: Path, columns: Sequence[str]) -> int:
    """Choose how many rows of a file to hold at a time: a repeated value is stored once, and unfolds when it is read.

    Args:
        path: The file.
        columns: Names of the columns that are read.

    Raises:
        UserError: One row, or one column of a row group, is too large.
    """
    chunks = [chunk for chunk in parquet_footer.column_chunks(path) if chunk.column in columns]
    largest = max((chunk.bytes for chunk in chunks), default=0)
    if largest > MAX_BATCH_BYTES:
        raise UserError(f"{path}: a column of a row group unfolds to {largest:,} bytes; write it with smaller row groups")
    if any(chunk.values > MAX_VALUES_PER_ROW * max(chunk.rows, 1) for chunk in chunks):
        raise UserError(f"{path}: a row holds more than {MAX_VALUES_PER_ROW:,} values; check that this is the right file")
    return max(1, min(256, MAX_BATCH_BYTES // max(largest, 1)))
