"""The run folder: files that are there whole or not at all, one owner at a time, one run to a folder."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.runs import files
from spac_repro.runs.files import Score

OLD = b"old content\n"


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Files, whole or not at all


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    path = tmp_path / "a" / "b" / "results.json"
    files.write_json(path, {"b": 1, "a": "ρ"})
    assert json.loads(path.read_text()) == {"a": "ρ", "b": 1}
    assert entries(tmp_path) == {"a", "a/b", "a/b/results.json"}


def test_equal_content_gives_equal_bytes(tmp_path):
    files.write_json(tmp_path / "one", {"a": 1, "b": {"c": 2, "d": 3}})
    files.write_json(tmp_path / "other", {"b": {"d": 3, "c": 2}, "a": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


class Stopped(BaseException):
    """Stands for whatever ends a write that is under way."""


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), Stopped()])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, error, moment):
    path = tmp_path / "scores.json"
    path.write_bytes(OLD)

    def fail(*_):
        raise error

    monkeypatch.setattr(*{"fsync": (os, "fsync", fail), "replace": (Path, "replace", fail)}[moment])
    with pytest.raises(type(error)):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == OLD
    assert entries(tmp_path) == {"scores.json"}


def test_a_truly_full_device_leaves_the_old_file_and_no_other(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    path = tmp_path / "scores.json"
    path.write_bytes(OLD)
    (tmp_path / ".scores.json.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        files.write_bytes(path, b"new")
    assert full.value.errno == errno.ENOSPC
    assert path.read_bytes() == OLD
    assert entries(tmp_path) == {"scores.json"}


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """Renamed first and synced later, a file could be empty after a power failure."""
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor, real=os.fsync: (order.append("fsync"), real(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to, real=Path.replace: (order.append("rename"), real(path, to))[1])
    files.write_bytes(tmp_path / "file", b"content")
    assert order[:2] == ["fsync", "rename"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "policy"
    with files.new_folder(target) as folder:
        (folder / "weights").write_bytes(b"1")
        assert not target.exists()
    assert (target / "weights").read_bytes() == b"1"

    def replace_it_and_fail():
        with files.new_folder(target) as folder:
            (folder / "weights").write_bytes(b"2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_it_and_fail()
    assert (target / "weights").read_bytes() == b"1"
    assert entries(tmp_path) == {"policy", "policy/weights"}


def test_what_a_kill_left_of_a_folder_is_not_in_the_next_one(tmp_path):
    left = tmp_path / ".policy.partial"
    left.mkdir()
    (left / "old-weights").touch()
    with files.new_folder(tmp_path / "policy") as folder:
        (folder / "weights").touch()
    assert entries(tmp_path) == {"policy", "policy/weights"}


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is .* a run folder"), ("{", "not JSON"), ("", "not JSON"), (b"\xff\xfe\x00", "not UTF-8")]
)
def test_json_that_is_missing_or_damaged_is_named(tmp_path, content, words):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as refused:
        files.read_json(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_one_line(tmp_path, error):
    with pytest.raises(UnfitEnvironmentError, match="make room and repeat the command") as said, files.disk_errors(tmp_path):
        raise error
    assert str(tmp_path) in str(said.value)
    assert "\n" not in str(said.value)
    assert said.value.exit_code == 3


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("No space in the name"), UserError("bad")])
def test_other_errors_are_not_the_disks(tmp_path, error):
    with pytest.raises(type(error)) as said, files.disk_errors(tmp_path):
        raise error
    assert said.value is error


def test_a_score_keeps_all_it_knows():
    score = Score("mini_arc", "acc_norm", 0.5, 0.1, 20, version="1.0", note="overlap: 3 of 20 items")
    assert Score(**json.loads(json.dumps(score.as_dict()))) == score


# One owner at a time

HOLD = """
import sys, time
from pathlib import Path
from spac_repro.runs import files
with files.owned(Path(sys.argv[1])):
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
    with files.owned(folder):
        pass


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path, other_owner):
    with pytest.raises(UserError, match=f"in use by process {other_owner.pid} on .*--out"):
        own(tmp_path / "run")
    own(tmp_path / "another")


def test_the_refused_does_not_take_the_lock_with_it(tmp_path, other_owner):
    for _ in range(2):
        with pytest.raises(UserError, match="in use"):
            own(tmp_path / "run")


def test_a_killed_owners_lock_dies_with_it(tmp_path, other_owner):
    other_owner.send_signal(signal.SIGKILL)
    other_owner.wait()
    assert (tmp_path / "run" / ".owner.json").exists()  # it had no time to clean up
    own(tmp_path / "run")


def test_one_process_cannot_own_a_folder_twice(tmp_path):
    with files.owned(tmp_path):
        with pytest.raises(UserError, match="in use"):
            own(tmp_path)
        with pytest.raises(UserError, match="in use"):
            own(tmp_path)
    own(tmp_path)


def test_a_folder_that_became_no_run_folder_is_left_as_it_was(tmp_path):
    """Bad input is often found only after the folder was taken."""

    def fail_in(folder: Path) -> None:
        with files.owned(folder):
            raise UserError("bad input")

    with pytest.raises(UserError, match="bad input"):
        fail_in(tmp_path / "runs" / "tiny" / "seed-0")
    assert entries(tmp_path) == set()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").touch()
    with pytest.raises(UserError, match="bad input"):
        fail_in(tmp_path / "letters")
    assert entries(tmp_path) == {"letters", "letters/one.txt"}


def test_a_run_folder_stays_when_its_owner_fails(tmp_path):
    def fail() -> None:
        with files.owned(tmp_path / "run"):
            files.claim(tmp_path / "run", manifest(), allow_changed_environment=False)
            raise UserError("later")

    with pytest.raises(UserError, match="later"):
        fail()
    assert (tmp_path / "run" / "manifest.json").exists()
    assert not (tmp_path / "run" / ".owner.json").exists()
    own(tmp_path / "run")
    assert (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_a_file_in_the_way_is_named(tmp_path, folder):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(UserError, match=r"a file stands in its way.*--out"):
        own(tmp_path / folder)
    assert (tmp_path / "file").read_bytes() == OLD


# One run to a folder


def manifest(*, seed: int = 0, epochs: int = 2, preferences: str = "aa", torch: str = "2.13.0") -> dict:
    return {
        "schema": files.SCHEMA,
        "seed": seed,
        "settings": {"name": "tiny", "training": {"epochs": epochs, "batch_size": 64}},
        "inputs": {"preferences": 100, "preferences_sha256": preferences},
        "environment": {"libraries": {"torch": torch}, "threads": 1},
        "segments": [],
        "equal_bits_claimed": True,
    }


def claim(folder: Path, wanted: dict, *, allow: bool = False) -> None:
    files.claim(folder, wanted, allow_changed_environment=allow)


def test_a_new_run_writes_its_manifest_and_may_come_again(tmp_path):
    claim(tmp_path, manifest())
    written = (tmp_path / "manifest.json").read_bytes()
    assert json.loads(written) == manifest()
    claim(tmp_path, manifest())
    assert (tmp_path / "manifest.json").read_bytes() == written


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (manifest(epochs=3), r"settings\.training\.epochs is 2 there and 3 here"),
        (manifest(seed=1), "seed is 0 there and 1 here"),
        (manifest(preferences="bb"), r"inputs\.preferences_sha256 is 'aa' there and 'bb' here"),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_another_runs_folder_is_refused_with_the_key_and_stays_as_it_is(tmp_path, other, words, allow):
    """Leave to change the environment is no leave to change the run."""
    claim(tmp_path, manifest())
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=f"{words}; choose another folder with --out"):
        claim(tmp_path, other, allow=allow)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_changed_environment_is_refused_and_with_leave_recorded(tmp_path):
    claim(tmp_path, manifest())
    changed = manifest(torch="2.14.0")
    with pytest.raises(UserError, match=r"libraries\.torch was '2\.13\.0' and is '2\.14\.0'; .*--allow-changed-environment"):
        claim(tmp_path, changed)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest()

    claim(tmp_path, changed, allow=True)
    there = json.loads((tmp_path / "manifest.json").read_text())
    assert there == {**manifest(), "segments": [changed["environment"]], "equal_bits_claimed": False}

    claim(tmp_path, changed)  # it is the same as the last segment's
    with pytest.raises(UserError, match="allow-changed-environment"):
        claim(tmp_path, manifest())  # and going back is a change too
    claim(tmp_path, manifest(), allow=True)
    there = json.loads((tmp_path / "manifest.json").read_text())
    assert there["segments"] == [changed["environment"], manifest()["environment"]]
    assert there["equal_bits_claimed"] is False


def test_a_finished_run_may_be_looked_at_from_anywhere(tmp_path):
    claim(tmp_path, manifest())
    (tmp_path / "results.json").write_text("{}")
    claim(tmp_path, manifest(torch="2.14.0"))
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest()
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        claim(tmp_path, manifest(seed=1))


def test_leave_to_change_changes_nothing_where_nothing_changed(tmp_path):
    claim(tmp_path, manifest(), allow=True)
    claim(tmp_path, manifest(), allow=True)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest()


def test_a_folder_with_other_things_in_it_is_no_run_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a run folder"):
        claim(tmp_path, manifest())
    assert entries(tmp_path) == {"thesis.tex"}


def test_a_kill_before_the_manifest_was_whole_does_not_spoil_the_folder(tmp_path):
    for left in (".lock", ".owner.json", "..owner.json.partial", ".manifest.json.partial"):
        (tmp_path / left).write_text('{"half')
    claim(tmp_path, manifest())
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest()


def test_a_folder_of_another_version_is_refused(tmp_path):
    files.write_json(tmp_path / "manifest.json", {**manifest(), "schema": 99})
    with pytest.raises(UserError, match="schema 99 is not 1"):
        claim(tmp_path, manifest())


trees = st.recursive(
    st.integers(0, 3) | st.sampled_from(["a", "b"]) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


def flat(tree, prefix: str = "") -> dict:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, inner in tree.items() for key, value in flat(inner, f"{prefix}{name}.").items()}


@given(trees, trees)
def test_trees_differ_exactly_where_one_of_their_leaves_does(old, new):
    found = list(files.differences(old, new))
    assert (found == []) == (old == new)
    for key, was, is_now in found:
        if not isinstance(was, dict) and not isinstance(is_now, dict):
            assert flat(old).get(key) == was
            assert flat(new).get(key) == is_now
            assert was != is_now


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
