"""Read a Parquet file as columns of plain Python values."""

from pathlib import Path
from typing import Any

from spac_repro.errors import UserError

Columns = dict[str, list[Any]]


def read_columns(file: Path) -> Columns:
    """Read the columns of a file, by name.

    Raises:
        UserError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:  # read_table would import pandas, which takes half a second
            return dict(parquet.read().to_pydict())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged ({str(error).splitlines()[0]}); remove it and repeat the run's command") from None
