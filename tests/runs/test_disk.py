"""Disk space is looked at before a run begins."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.runs import disk


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets how many bytes are free."""
    return lambda count: monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))


def test_a_run_must_fit(tmp_path: Path, free) -> None:
    free(1000)
    disk.check(tmp_path / "new" / "run", 1000)
    with pytest.raises(
        UnfitEnvironmentError, match=r"run: checkpoints and iterates take up to 1 kB, of which 1 kB .* 1 kB are free"
    ):
        disk.check(tmp_path / "new" / "run", 1001)
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_holds_already_counts(tmp_path: Path, free) -> None:
    (tmp_path / "iteration-0").mkdir()
    (tmp_path / "iteration-0" / "policy").write_bytes(b"0" * 600)
    free(400)
    disk.check(tmp_path, 1000)
    with pytest.raises(UnfitEnvironmentError, match="of which 401 B are still to be written, and 400 B are free"):
        disk.check(tmp_path, 1001)
