"""A run folder has one owner at a time."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.runs import lock
from spac_repro.runs.folder import RunFolder

OLD = b"old content\n"


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# One owner at a time

HOLD = """
import sys, time
from pathlib import Path
from spac_repro.runs import lock
from spac_repro.runs.folder import RunFolder
with lock.exclusive_access(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_owner(tmp_path):
    """Another process that owns the folder `run`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def own(folder: Path) -> None:
    with lock.exclusive_access(folder):
        pass


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path, other_owner):
    with pytest.raises(UserError, match=f"in use by process {other_owner.pid} on .*--out"):
        own(tmp_path / "run")
    own(tmp_path / "another")


def test_the_refused_does_not_take_the_lock_with_it(tmp_path, other_owner):
    for _ in range(2):
        with pytest.raises(UserError, match="in use"):
            own(tmp_path / "run")


def test_who_is_at_work_can_be_asked(tmp_path, other_owner):
    run = RunFolder(tmp_path / "run")
    assert (run.in_use, run.owner_is_alive) == (True, True)
    other_owner.send_signal(signal.SIGKILL)
    other_owner.wait()
    assert (run.in_use, run.owner_is_alive) == (False, False)
    assert (RunFolder(tmp_path / "none").in_use, RunFolder(tmp_path / "none").owner_is_alive) == (False, False)
    assert not (tmp_path / "none").exists()


def test_a_killed_owners_lock_dies_with_it(tmp_path, other_owner):
    other_owner.send_signal(signal.SIGKILL)
    other_owner.wait()
    assert (tmp_path / "run" / ".owner.json").exists()  # it had no time to clean up
    own(tmp_path / "run")


def test_one_process_cannot_own_a_folder_twice(tmp_path):
    with lock.exclusive_access(tmp_path):
        with pytest.raises(UserError, match="in use"):
            own(tmp_path)
        with pytest.raises(UserError, match="in use"):
            own(tmp_path)
    own(tmp_path)


def test_a_folder_that_became_no_run_folder_is_left_as_it_was(tmp_path):
    """Bad input is often found only after the folder was taken."""

    def fail_in(folder: Path) -> None:
        with lock.exclusive_access(folder):
            raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        fail_in(tmp_path / "runs" / "tiny" / "seed-0")
    assert entries(tmp_path) == set()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").touch()
    with pytest.raises(UserError, match="bad input"):
        fail_in(tmp_path / "letters")
    assert entries(tmp_path) == {"letters", "letters/one.txt"}


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_a_file_in_the_way_is_named(tmp_path, folder):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(UserError, match=r"it or a parent is a file.*--out"):
        own(tmp_path / folder)
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("process", ["me", "1", 0, -1, 10**30, None, 1.5, True, []])
def test_a_nonsensical_or_reused_number_of_a_process_is_no_owner(tmp_path, process):
    (tmp_path / ".owner.json").write_text(json.dumps({"process": process}))
    assert not RunFolder(tmp_path).owner_is_alive
    (tmp_path / ".owner.json").write_text(json.dumps({"process": os.getpid()}))  # exists, and has no lock: the number was reused
    assert not RunFolder(tmp_path).owner_is_alive


def test_a_file_system_without_locks_is_said_in_one_line(tmp_path, monkeypatch):
    from filelock import FileLock

    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(UnfitEnvironmentError, match=r"cannot write to .*run: No locks available; .*another disk"):
        own(tmp_path / "run")


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "link to itself"])
def test_something_else_in_the_place_of_the_lock_is_said(tmp_path, kind):
    place = tmp_path / lock.LOCK
    if kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(place if "itself" in kind else tmp_path / "nothing")
    for use in (lambda: lock.is_locked(tmp_path), lambda: lock.exclusive_access(tmp_path).__enter__()):
        with pytest.raises(UserError, match=f"{place} is not the lock file that a run makes; remove it"):
            use()
