"""Damaged files, crash points and lost folders: a seeded sample of what docs/reliability.md counts."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "e2e"))

import cut_down  # noqa: E402

pytestmark = pytest.mark.e2e


def script(name: str, *arguments: str) -> str:
    """What a script of this folder prints; it must find nothing wrong."""
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, env=cut_down.environment(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_a_damaged_file_is_noticed_or_harmless() -> None:
    assert "30 cases, 0 wrong" in script("run.py", "--cases", "30", "--seed", "3")


def test_a_crash_at_any_point_loses_no_bit() -> None:
    assert "4 cases, 0 wrong" in script("crash.py", "--sample", "4", "--seed", "2")


@pytest.mark.check
def test_a_kill_at_any_time_loses_no_bit() -> None:
    assert "6 cases, 0 wrong" in script("crash.py", "--kills", "6")


@pytest.mark.check
def test_a_crash_without_a_checkpoint_loses_no_bit() -> None:
    assert "6 cases, 0 wrong" in script("crash.py", "--sample", "6", "--set", "training.save_steps=1000")


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


def test_a_second_run_in_the_folder_of_a_removed_one_has_its_own_bits(tmp_path: Path) -> None:
    run, alone = tmp_path / "run", cut_down.trained(tmp_path / "alone")
    first = started(run, "--seed", "1", "--set", "supervised_start.epochs=50")
    run.rename(tmp_path / "removed")
    cut_down.trained(run)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 2
    assert "was removed while this run was at work in it" in said.splitlines()[-1]
    assert cut_down.results(run) == cut_down.results(alone)
    assert (run / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()
    names = [sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) for folder in (run, alone)]
    ours, theirs = ([name for name in its if "tfevents" not in name] for its in names)
    assert ours == theirs
    assert len(names[0]) == len(names[1]), "the first run left TensorBoard's files"
