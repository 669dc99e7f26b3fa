"""The command line. Each command parses its arguments, calls one function and prints; heavy imports happen inside commands."""

import atexit
import io
import os
import re
import sys
from contextlib import suppress
from typing import Any, NoReturn

import typer

from spac_repro.cli import failures
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.optim import distributed, launch, signals

EXIT_INTERRUPTED = 130
# The `~` that begins a path. Before it may stand: -o, --option=, a setting's KEY=, the kind of an image. KEY=~ is YAML's null.
TILDE = re.compile(r"(?P<before>-o|(--[\w-]+=)?([\w-]+:)?|(--set=)?[\w.*]+=(?=~[\w.-]*/))(?P<home>~[\w.-]*)(?=/|$)")
# Commands whose finished work is kept; all others begin anew.
_WHAT_REPEATING_DOES = {"train": "resume from the last checkpoint", **dict.fromkeys(("sweep", "prefetch", "image"), "go on")}
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer's error for a wrong command line, which has no public name


def main() -> None:
    """Run the command line: the entry point of `spac-repro`.

    A user's mistake is printed as one line. After an interruption, a line says how to resume. The help lists the exit codes.
    """
    # A short spin: threads that spin for long slow each other down where cores are shared, and threads that sleep at once are slow
    # to wake (docs/decisions/03-threads.md). Must be set before torch starts.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale may lack the character π
    signals.install_handlers()
    code = _run()
    if distributed.world_size() > 1:
        _end_process(code)
    sys.exit(code)


def _run() -> int:
    """Carry out the command; return its exit code."""
    try:
        sys.argv[1:] = map(_with_home, sys.argv[1:])
        from spac_repro.cli.root import app  # imported here, because it loads methods of other distributions, which may be refused

        code = app(prog_name="spac-repro", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer catches an interruption and prints nothing
            _exit_interrupted()
        distributed.leave_process_group()
        return int(code or 0)
    except UserError as error:
        return failures.report_user_error(error)
    except USAGE_ERROR as error:
        print(_usage_message(error), file=sys.stderr)
        return UserError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _exit_interrupted()
    except Exception as error:
        if signals.signal_received():
            _exit_interrupted()  # a library that is interrupted during its import may raise any error
        return failures.report_crash(error)


def _with_home(word: str) -> str:
    """Replace a leading `~` or `~user` by the home folder, as the shell does, which leaves it in quotes, after `=` and after `:`.

    Raises:
        UserError: there is no such user.
    """
    found = TILDE.match(word)
    if found is None:
        return word
    home, rest = os.path.expanduser(found["home"]), word[found.end() :]
    if home == found["home"] and rest:
        raise UserError(f"{one_line(word, 100)}: there is no home folder {home}; write ./{home} for a folder of that name")
    return f"{found['before']}{home}{rest}"


def _exit_interrupted() -> NoReturn:
    """Exit with code 130. Files are closed by now; `os._exit` is used because Python's own exit may die by SIGINT instead."""
    left_to_launcher = distributed.is_launched() and launch.FAILURES_VARIABLE in os.environ
    if distributed.is_main_process() and not left_to_launcher:
        then = _WHAT_REPEATING_DOES.get(next(iter(sys.argv[1:]), ""), "start over")
        print(f"spac-repro: interrupted; repeat the command to {then}", file=sys.stderr)
    _leave(EXIT_INTERRUPTED)


def _end_process(code: int) -> NoReturn:
    """End one of several processes without taking the interpreter down.

    A thread of Gloo may still hold a tensor, and wants Python's lock to free it. Where the interpreter is ending, that aborts the
    process (pytorch/pytorch#179291), and a run that is complete ends with an error.
    """
    atexit._run_exitfuncs()  # noqa: SLF001  # as Python's own exit does, before it takes anything down
    _leave(code)


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _usage_message(error: Any) -> str:
    """Say in one line what is wrong with a command line. If only the command is missing, typer's message is the help itself."""
    message = str(error.format_message())
    if message.startswith("Usage:"):
        return message
    message = " ".join(message.split()).rstrip(".")
    context = error.ctx
    if context and (name := _new_name(getattr(error, "option_name", ""), context)):
        message = f"{error.option_name} is now called {name}"
    return f"spac-repro: {message}; see `{context.command_path if context else 'spac-repro'} --help`"


def _new_name(option: str, context: Any) -> str | None:
    """The new name of an option of an earlier version, if the command has it."""
    from spac_repro.cli.options import RENAMED

    name = RENAMED.get(option)
    return name if any(name in parameter.opts for parameter in context.command.params) else None
