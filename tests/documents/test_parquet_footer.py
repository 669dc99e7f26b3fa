"""Parquet files: the sizes of columns from the footer, and damage of any byte of it."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from spac_repro.documents import parquet, parquet_footer
from spac_repro.errors import UserError

MESSAGES = [{"role": "user", "content": "a" * 50, "tool_calls": None}] * 3


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(0, 300), group=st.integers(1, 100), compression=st.sampled_from(["none", "snappy", "zstd"]))
def test_sizes_are_those_that_pyarrow_has(tmp_path, rows, group, compression):
    path = tmp_path / "a.parquet"
    schema = pa.schema({"prompt": pa.string(), "chosen": pa.list_(pa.struct({name: pa.string() for name in MESSAGES[0]}))})
    table = pa.Table.from_pylist([{"prompt": f"p{i}", "chosen": MESSAGES} for i in range(rows)], schema)
    pq.write_table(table, path, row_group_size=group, compression=compression, store_schema=bool(rows % 2))
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [(each.num_rows, each.column(i)) for each in groups for i in range(each.num_columns)]
    expected = [
        (rows, chunk.path_in_schema.split(".")[0], chunk.num_values, chunk.total_uncompressed_size) for rows, chunk in chunks
    ]
    assert list(parquet_footer.column_chunks(path)) == expected


EVERY_BYTE = """
import sys
from pathlib import Path
from spac_repro.documents import parquet
from spac_repro.errors import UserError
path, damaged = Path(sys.argv[1]), Path(sys.argv[1] + ".damaged")
content = path.read_bytes()
footer = int.from_bytes(content[-8:-4], "little") + 8
for position in range(len(content) - footer, len(content)):
    for flip in (1, 16, 64):
        damaged.write_bytes(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
        try:
            list(parquet.rows(damaged, ["prompt", "chosen", "rejected"]))
        except UserError as error:
            assert "\\n" not in str(error)
"""


def test_no_damage_of_a_footer_ends_the_process(tmp_path):
    """pyarrow's own metadata did so for one flipped bit in 65: `terminate called after throwing … histogram size mismatch`."""
    path = tmp_path / "a.parquet"
    table = pa.table({"prompt": ["p"], "chosen": ["a"], "rejected": pa.array([None], pa.null())})
    pq.write_table(table, path, store_schema=False, compression="none", write_statistics=False)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", EVERY_BYTE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no Parquet footer"),
        (b"PAR1\xff\xff\xff\x7fPAR1", "no Parquet footer"),
        (b"PAR1\x00\x01\x00\x00\x00PAR1", "a damaged footer (KeyError)"),
        (b"PAR1\x1c" * 99 + b"\x1c" * 99 + b"\x63\x00\x00\x00PAR1", "nested too deep"),
        (b"PAR1\x19\xfc\xff\xff\xff\xff\x07\x07\x00\x00\x00PAR1", "ends too early"),
        (b"PAR1\x16" + b"\xff" * 20 + b"\x15\x00\x00\x00PAR1", "a number that is too large"),
        (b"PAR1\x1e\x01\x00\x00\x00PAR1", "the unknown type 14"),
    ],
)
def test_a_footer_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        list(parquet_footer.column_chunks(path))
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        list(parquet.rows(path, ["prompt"]))
