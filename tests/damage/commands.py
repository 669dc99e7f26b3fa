"""Commands of the package in forked processes of one that has imported everything, and the cut-down runs that they work on."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

import cut_down

from spac_repro import cli

Hook = Callable[[], None]


class Finished(NamedTuple):
    """How a command ended: exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    err: str


def train_arguments(folder: str, *more: str) -> list[str]:
    """The `train` command of a cut-down run, in the current folder."""
    return cut_down.command(Path(folder), *more)[3:]


def start(arguments: list[str], cwd: Path, hook: Hook = lambda: None) -> int:
    """Start `spac-repro` in a forked process; what it prints goes to `.out` and `.err` beside `cwd`. Returns the process.

    Args:
        arguments: the command line after `spac-repro`.
        cwd: its working folder.
        hook: called in the process first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if process := os.fork():
        return process
    code = 70
    try:
        for descriptor, name in ((1, ".out"), (2, ".err")):
            file = os.open(cwd.with_name(cwd.name + name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
        os.chdir(cwd)
        sys.argv = ["spac-repro", *arguments]
        hook()
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(BaseException):
            _note_modules(cwd)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int, cwd: Path) -> Finished:
    """Wait for a process that `start` started."""
    _, status = os.waitpid(process, 0)
    out, err = (cwd.with_name(cwd.name + name).read_text(errors="replace") for name in (".out", ".err"))
    return Finished(os.waitstatus_to_exitcode(status), out, err)


def spac_repro(arguments: list[str], cwd: Path, hook: Hook = lambda: None) -> Finished:
    """Carry out a command in a forked process."""
    return wait(start(arguments, cwd, hook), cwd)


def kill(process: int) -> None:
    """Kill -9 a process that `start` started, and reap it."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _note_modules(cwd: Path) -> None:
    names = "\n".join(sorted(sys.modules))
    cwd.with_name(cwd.name + ".modules").write_text(names)


def import_as(cwd: Path) -> None:
    """Import what the last command in `cwd` imported, so that the next ones need not."""
    for name in cwd.with_name(cwd.name + ".modules").read_text().splitlines():
        if name not in sys.modules and not name.startswith(("__", "torch._inductor", "torch._dynamo")):
            with suppress(Exception):
                importlib.import_module(name)


def trained(cwd: Path, folder: str = "run", *more: str) -> Path:
    """Train a cut-down run in `cwd`, and import all that it needed."""
    cwd.mkdir(parents=True, exist_ok=True)
    done = spac_repro(train_arguments(folder, *more), cwd)
    assert done.code == 0, done.err
    import_as(cwd)
    return cwd / folder
