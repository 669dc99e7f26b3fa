"""A job of a sweep: the folder of its caches, and its signals."""

import signal
import sys
from pathlib import Path

import pytest

from spac_repro.launchers.job import Job, JobError

PROGRAM = """
import os, pathlib, stat, sys
cache = pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
cache.mkdir()
pathlib.Path(sys.argv[1]).write_text(f"{cache.parent} {stat.S_IMODE(cache.parent.stat().st_mode):o}")
"""


class Training(Job):
    """A job whose training writes down where its caches are."""

    def _command(self):
        return [sys.executable, "-c", PROGRAM, str(self.run_folder)]


def job(folder: Path, scratch: str):
    return Training("run", [], folder / "seen", folder / "attempts", folder, 1, {}, 3, scratch=scratch)


def test_caches_are_in_a_new_private_folder(tmp_path, monkeypatch):
    """Somebody else made the folder that could be guessed, and a link; both are left alone, and nothing stays behind."""
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir(mode=0o777)
    guessed = tmp_path / "disk" / "spac-repro-0"
    guessed.symlink_to(tmp_path)
    places = []
    for _ in range(2):
        assert job(tmp_path, "$DISK")._train() == (0, "")
        place, mode = (tmp_path / "seen").read_text().split()
        assert (Path(place).parent, mode) == (tmp_path / "disk", "700")
        places.append(place)
    assert len({*places}) == 2
    assert [*(tmp_path / "disk").iterdir()] == [guessed]


def test_a_scratch_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="correct `scratch` in the cluster profile"):
        job(tmp_path, str(tmp_path / "file"))._train()


class SignalledTraining(Job):
    """A job whose training gets Slurm's signal at the same time as the job, and ends before the job has looked."""

    def _command(self):
        return [sys.executable, "-c", "import os, signal; os.kill(os.getppid(), signal.SIGUSR2); os._exit(130)"]


def test_a_signal_is_reported_even_if_training_stopped_first(tmp_path, capfd):
    ours = SignalledTraining("run", [], tmp_path / "seen", tmp_path / "attempts", tmp_path, 1, {}, 3)
    previous = signal.signal(signal.SIGUSR2, ours._on_signal)
    try:
        code, last_line = ours._train()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert ours._outcome(code, last_line) == "again"
    assert "SIGUSR2: telling the training to stop" in capfd.readouterr().err
