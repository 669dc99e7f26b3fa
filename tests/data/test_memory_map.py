"""Memory-mapped columns: equal to rows in memory, written in batches, and no file remains."""

import gc
import tempfile
from pathlib import Path

import needs
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spac_repro.data import memory_map
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.runs import files

TEXTS = st.lists(st.tuples(st.lists(st.integers(0, 2**31 - 1)), st.lists(st.integers(0, 9))), max_size=12)


@settings(deadline=None)
@given(rows=TEXTS, batch=st.integers(1, 5))
def test_columns_equal_the_rows_written(rows, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_map, "BATCH_ROWS", batch)
        columns = memory_map.token_columns(rows, ["one", "other"])
    for number, name in enumerate(("one", "other")):
        expected = [row[number] for row in rows]
        assert list(columns[name]) == expected
        assert columns[name] == expected
        assert columns[name][1:7:2] == expected[1:7:2]
        assert memory_map.lengths(columns[name]) == memory_map.lengths(expected) == list(map(len, expected))
    if rows:
        assert columns["one"][-1] == rows[-1][0]
        assert columns["one"] != [row[0] for row in rows[1:]]
    with pytest.raises(IndexError):
        columns["one"][len(rows)]


def test_rows_are_written_in_batches(monkeypatch):
    monkeypatch.setattr(memory_map, "BATCH_ROWS", 3)
    asked, written = [], []

    def write_table(batches, schema):
        written.extend((len(asked), batch.num_rows) for batch in batches)
        return pa.table({"x": []})

    monkeypatch.setattr(memory_map, "write_table", write_table)
    memory_map.token_columns(((asked.append(i) or [i],) for i in range(8)), ["x"])
    assert written == [(3, 3), (6, 3), (8, 2)]


def test_no_named_file_remains(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    column = memory_map.token_columns([([1, 2],), ([],)], ["x"])["x"]
    assert list(tmp_path.iterdir()) == []
    gc.collect()
    assert list(column) == [[1, 2], []]


def test_a_full_disk_is_reported_when_the_first_bytes_are_flushed(tmp_path, monkeypatch):
    """The error is raised by the flush, and reported once."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "wb"))  # noqa: SIM115
    with (
        pytest.raises(UnfitEnvironmentError, match=r"cannot write temporary files in .*TMPDIR"),
        files.explain_disk_errors(tmp_path),
    ):
        memory_map.token_columns([([1, 2],)], ["x"])


@pytest.mark.check
def test_a_full_disk_is_reported_with_the_remedy(tmp_path, monkeypatch):
    try:
        with needs.small_disk(tmp_path, "64k"):
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
            with pytest.raises(UnfitEnvironmentError, match=r"cannot write temporary files in .*No space left.*TMPDIR") as refused:
                memory_map.token_columns((([7] * 1000,) for _ in range(2000)), ["x"])
            assert str(tmp_path) in str(refused.value)
            assert list(Path(tmp_path).iterdir()) == []
    except needs.NotHereError as reason:
        pytest.skip(str(reason))
