"""An error of the program itself: one line, exit 70, the traceback in a file; of several processes one speaks."""

import errno
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spac_repro import cli
from spac_repro.cli import failures
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.optim import distributed, launch


@pytest.fixture
def crash(monkeypatch, tmp_path, capsys):
    """Runs the command line with an app that raises an error; gives the exit code and what was printed."""

    def run(error: Exception) -> tuple[int, str]:
        from spac_repro.cli import root

        def app(**_):
            raise error

        monkeypatch.setattr(root, "app", app)
        monkeypatch.setattr(sys, "argv", ["spac-repro", "train", "--seed", "1"])
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


def test_a_crash_is_one_line_with_the_place_of_the_traceback(crash, tmp_path):
    code, printed = crash(ValueError("first line\nsecond " + "x" * 1000))
    assert code == 70
    assert printed.count("\n") == 1
    assert len(printed) <= len("spac-repro: ") + 301
    assert printed.startswith("spac-repro: internal error, ValueError: first line second")
    (kept,) = tmp_path.glob("spac-repro-crash-*.txt")
    assert str(kept) in printed
    text = kept.read_text()
    assert text.startswith("spac-repro train --seed 1\n")
    assert 'raise error\n' in text  # fmt: skip


def test_a_traceback_that_cannot_be_kept_is_no_second_error(crash, monkeypatch):
    def fail(*_, **__):
        raise OSError("read-only")

    monkeypatch.setattr("tempfile.mkstemp", fail)
    code, printed = crash(KeyError("a"))
    assert (code, printed.count("\n")) == (70, 1)
    assert "the traceback could not be written" in printed


@pytest.mark.parametrize(("error", "code"), [(UserError("bad\ninput \x1b[31m"), 2), (UnfitEnvironmentError("no disk"), 3)])
def test_a_users_error_keeps_its_code_and_is_one_printable_line(crash, error, code):
    found, printed = crash(error)
    assert found == code
    assert printed.count("\n") == 1
    assert "\x1b" not in printed


def said(folder: Path, capsys, codes: tuple[int, ...] = (70,)) -> str:
    ended = {rank: SimpleNamespace(exitcode=code, timestamp=rank) for rank, code in enumerate(codes)}
    said.code = launch._report_failure(folder, ended)
    return capsys.readouterr().err


def fail(monkeypatch, folder: Path, rank: int, error: Exception) -> int:
    monkeypatch.setenv(launch.FAILURES_VARIABLE, str(folder))
    monkeypatch.setenv("RANK", str(rank))
    return failures.report_user_error(error) if isinstance(error, UserError) else failures.report_crash(error)


def test_of_several_processes_the_error_speaks_and_not_its_consequence(monkeypatch, tmp_path, capsys):
    assert fail(monkeypatch, tmp_path, 0, RuntimeError("Connection closed by peer")) == 70
    assert fail(monkeypatch, tmp_path, 1, UserError("batch-00001.json: damaged")) == 2
    assert capsys.readouterr().err == ""
    assert said(tmp_path, capsys, (70, 2, -15)) == "spac-repro: process 1: batch-00001.json: damaged\n"
    assert said.code == 2


def test_a_killed_process_speaks_before_the_crashes_that_follow(monkeypatch, tmp_path, capsys):
    fail(monkeypatch, tmp_path, 0, RuntimeError("Connection closed by peer"))
    assert said(tmp_path, capsys, (70, -9)).startswith(
        "spac-repro: process 1 was ended by SIGKILL, most likely because the machine"
    )
    assert said.code == 3
    assert said(tmp_path, capsys, (-6,)).startswith("spac-repro: process 0 was ended by SIGABRT; what libraries said is above")


def test_what_the_main_process_raised_everywhere_is_said_once(monkeypatch, tmp_path, capsys):
    copy = UserError("no such file")
    copy.add_note(distributed._OF_MAIN_PROCESS)
    fail(monkeypatch, tmp_path, 0, UserError("no such file"))
    fail(monkeypatch, tmp_path, 1, copy)
    assert [json.loads(file.read_text())["rank"] for file in tmp_path.iterdir()] == [0]
    assert said(tmp_path, capsys) == "spac-repro: no such file\n"


def test_where_nobody_said_anything_nothing_is_printed(tmp_path, capsys):
    assert (said(tmp_path, capsys, (130, 130)), said.code) == ("", 130)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "x", "/a/b"), IsADirectoryError(errno.EISDIR, "x", "/a/b"), MemoryError()])
def test_what_the_system_refuses_is_no_crash(crash, tmp_path, error):
    code, printed = crash(error)
    assert (code, printed.count("\n")) == (3, 1)
    assert "; " in printed
    assert not list(tmp_path.glob("spac-repro-crash-*"))
