"""A run whose folder is removed while it is at work: it ends, and writes nothing into the folder of a run that begins there."""

import subprocess
import time
from pathlib import Path

import cut_down
import pytest

pytestmark = pytest.mark.e2e


def started(run: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run that has taken some steps."""
    process = subprocess.Popen(cut_down.command(run, *arguments), env=cut_down.environment(), stderr=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert process.poll() is None
        time.sleep(0.001)
    return process


def test_a_run_whose_folder_is_removed_ends_with_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(run)
    run.rename(tmp_path / "removed")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    *_, last = said.splitlines()
    assert last == f"spac-repro: {run} was removed while this run was at work in it; nothing more is written; repeat the command"
    assert "Traceback" not in said
    assert not run.exists()


def test_a_second_run_in_the_folder_of_a_removed_one_has_its_own_bits(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = started(run, "--seed", "1", "--set", "supervised_start.epochs=50")
    run.rename(tmp_path / "removed")
    cut_down.trained(run)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 2
    assert "was removed while this run was at work in it" in said.splitlines()[-1]
    assert cut_down.results(run) == cut_down.results(uninterrupted)
    assert (run / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    names = [sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) for folder in (run, uninterrupted)]
    ours, theirs = ([name for name in its if "tfevents" not in name] for its in names)
    assert ours == theirs
    assert len(names[0]) == len(names[1]), "the first run left TensorBoard's files"
