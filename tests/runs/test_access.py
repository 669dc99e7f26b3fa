"""Folders that somebody else could change."""

import os
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import access
from spac_repro.runs.folder import RunFolder


def test_a_folder_of_ones_own_is_accepted(tmp_path):
    for mode in (0o700, 0o755, 0o750):
        tmp_path.chmod(mode)
        access.check_own_folder(tmp_path)


def test_a_run_is_not_written_where_others_can_write(tmp_path):
    for mode in (0o757, 0o777, 0o1777):
        tmp_path.chmod(mode)
        with pytest.raises(UserError, match="chmod go-w"), RunFolder(tmp_path).exclusive_access():
            pass
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_run_is_not_written_into_a_folder_of_somebody_else(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(UserError, match="belongs to another user"), RunFolder(tmp_path).exclusive_access():
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_file_system_that_renames_the_owner_is_accepted(tmp_path, monkeypatch):
    """NFS makes root's files nobody's: a new folder has the same owner as this one."""
    original = tempfile.mkdtemp

    def squashed(*arguments, **options):
        made = original(*arguments, **options)
        os.chown(made, 65534, 65534)
        return made

    os.chown(tmp_path, 65534, 65534)
    monkeypatch.setattr(tempfile, "mkdtemp", squashed)
    access.check_own_folder(tmp_path)


def test_group_members_may_write_where_the_group_is_the_users_own(tmp_path, monkeypatch):
    import grp
    import pwd

    tmp_path.chmod(0o775)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: SimpleNamespace(pw_name="me"))
    for name, members, accepted in (("me", [], True), ("me", ["me"], True), ("me", ["me", "you"], False), ("lab", [], False)):
        monkeypatch.setattr(
            grp, "getgrgid", lambda group, name=name, members=members: SimpleNamespace(gr_name=name, gr_mem=members)
        )
        if accepted:
            access.check_own_folder(tmp_path)
        else:
            with pytest.raises(UserError, match="other users can write to"):
                access.check_own_folder(tmp_path)


def test_a_new_run_folder_is_not_open_whatever_the_umask(tmp_path):
    code = "import os, sys, pathlib; os.umask(0); from spac_repro.runs.folder import RunFolder as R\n"
    code += "with R(pathlib.Path(sys.argv[1])).exclusive_access(): print(oct(os.stat(sys.argv[1]).st_mode & 0o777))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.stdout == "0o755\n", done.stderr


@pytest.mark.parametrize("link", ["iteration-1", "tensorboard", "metrics.jsonl", "iteration-0/policy"])
def test_nothing_is_written_through_a_link_in_a_run_folder(tmp_path, link):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a symbolic link"), RunFolder(run).exclusive_access():
        pass
    assert not list(elsewhere.iterdir())


def test_a_run_folder_may_be_a_link_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with RunFolder(tmp_path / "run").exclusive_access():
        pass
