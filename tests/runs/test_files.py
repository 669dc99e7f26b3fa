"""Files that are there whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.runs import files, ownership
from spac_repro.runs.results import Score

OLD = b"old content\n"


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_file_is_written_with_the_folders_it_needs(tmp_path):
    path = tmp_path / "a" / "b" / "results.json"
    files.write_json(path, {"b": 1, "a": "ρ"})
    assert json.loads(path.read_text()) == {"a": "ρ", "b": 1}
    assert entries(tmp_path) == {"a", "a/b", "a/b/results.json"}


def test_a_run_folder_that_is_removed_behind_the_check_is_not_made_again(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / ownership.LOCK).write_bytes(b"")
    ownership.begin(run)
    checked = ownership.check

    def removed_after(path):
        checked(path)
        shutil.rmtree(run, ignore_errors=True)

    try:
        files.write_json(run / "a" / "b" / "results.json", {})
        monkeypatch.setattr(ownership, "check", removed_after)
        with (
            pytest.raises(UserError, match="was removed while this run was at work in it"),
            ownership.explain_loss(run),
            files.atomic_folder(run / "iteration-1" / "policy"),
        ):
            pass
        assert not run.exists()
    finally:
        ownership.end(run)


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


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """Renamed first and synced later, a file could be empty after a power failure."""
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor, real=os.fsync: (order.append("fsync"), real(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to, real=Path.replace: (order.append("rename"), real(path, to))[1])
    files.write_bytes(tmp_path / "file", b"content")
    assert order[:2] == ["fsync", "rename"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "policy"
    with files.atomic_folder(target) as folder:
        (folder / "weights").write_bytes(b"1")
        assert not target.exists()
    assert (target / "weights").read_bytes() == b"1"

    def replace_it_and_fail():
        with files.atomic_folder(target) as folder:
            (folder / "weights").write_bytes(b"2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_it_and_fail()
    assert (target / "weights").read_bytes() == b"1"
    assert entries(tmp_path) == {"policy", "policy/weights"}


def test_what_a_kill_left_is_not_in_the_next_folder_and_is_removed(tmp_path):
    left = tmp_path / f".policy.0123{files.PARTIAL}"
    left.mkdir()
    (left / "old-weights").touch()
    (tmp_path / f".scores.json.4567{files.PARTIAL}").touch()
    with files.atomic_folder(tmp_path / "policy") as folder:
        (folder / "weights").touch()
    assert entries(tmp_path / "policy") == {"weights"}
    files.remove_partial(tmp_path)
    assert entries(tmp_path) == {"policy", "policy/weights"}


def test_what_a_partial_link_points_to_stays(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    (tmp_path / f".policy.0123{files.PARTIAL}").symlink_to(other)
    files.remove_partial(tmp_path)
    assert entries(tmp_path) == {"other", "other/file"}


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_bytes(OLD)
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "guessed")
    (tmp_path / f".scores.json.guessed{files.PARTIAL}").symlink_to(target)
    with pytest.raises(FileExistsError):
        files.write_bytes(tmp_path / "scores.json", b"new")
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("content", [[1, 2], {"a": None}, "text"])
def test_sealed_json_is_read_for_its_own_source_alone(tmp_path, content):
    path = tmp_path / "batch.json"
    files.write_sealed_json(path, content, computed_from={"weights": "a"})
    assert files.read_sealed_json(path, computed_from={"weights": "a"}) == content
    with pytest.raises(UserError, match="computed by another run, or from other weights"):
        files.read_sealed_json(path, computed_from={"weights": "b"})


def test_sealed_json_of_which_a_byte_changed_is_refused(tmp_path):
    path = tmp_path / "batch.json"
    files.write_sealed_json(path, [[1, 22, 3]], computed_from={"weights": "a"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = files.read_sealed_json(path, computed_from={"weights": "a"})
        except UserError:
            continue
        assert found == [[1, 22, 3]], "white space may change"


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
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_one_line(tmp_path, error):
    with (
        pytest.raises(UnfitEnvironmentError, match="make room and repeat the command") as said,
        files.explain_disk_errors(tmp_path),
    ):
        raise error
    assert str(tmp_path) in str(said.value)
    assert "\n" not in str(said.value)
    assert said.value.exit_code == 3


@pytest.mark.parametrize("error", [OSError(errno.EDOM, "Not the system's"), ValueError("No space in the name"), UserError("bad")])
def test_other_errors_are_not_the_disks(tmp_path, error):
    with pytest.raises(type(error)) as said, files.explain_disk_errors(tmp_path):
        raise error
    assert said.value is error


REFUSED = ("EIO", "EPERM", "ESTALE", "EMFILE", "ENOLCK", "EOPNOTSUPP", "EFBIG", "EROFS", "EACCES", "ENOENT", "ENAMETOOLONG")


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_system_refuses_is_said_in_one_line_with_a_remedy(tmp_path, name):
    number = getattr(errno, name)
    with pytest.raises(UnfitEnvironmentError) as said, files.explain_disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(said.value).startswith(f"cannot write to {tmp_path}: {os.strerror(number)}; ")
    assert (said.value.exit_code, "\n" in str(said.value)) == (3, False)


def test_a_score_keeps_all_it_knows():
    score = Score("mini_arc", "acc_norm", 0.5, 0.1, 20, version="1.0", note="contaminated: 3 of 20 items")
    assert Score(**json.loads(json.dumps(score.as_dict()))) == score


@pytest.mark.parametrize("write", [lambda path: files.write_json(path, 1), lambda path: files.write_bytes(path, b"1")])
def test_a_folder_in_the_place_of_a_file_is_said(tmp_path, write):
    path = tmp_path / "one.json"
    path.mkdir()
    with pytest.raises(UserError, match=f"{path}: a file is needed here, and a folder is in its place; remove it"):
        write(path)
    assert [*tmp_path.rglob("*")] == [path]


@pytest.mark.parametrize("at", ["run", "run/policy"])
def test_a_file_in_the_place_of_a_folder_is_said(tmp_path, at):
    (tmp_path / at).parent.mkdir(exist_ok=True)
    (tmp_path / at).write_text("")
    with (
        pytest.raises(UserError, match=f"{tmp_path / at}: a folder is needed here, and a file is in its place; remove it"),
        files.atomic_folder(tmp_path / "run" / "policy"),
    ):
        pass
    assert (tmp_path / at).is_file()
