"""The command line: each command parses, calls one function, prints. Nothing heavy is imported before a command needs it."""

import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

import typer

from spac_repro.errors import UserError
from spac_repro.optim import distributed, signals

INTERRUPTED = 130
USAGE_ERROR: Any = typer.BadParameter.__base__  # what typer raises for a wrong command line; it has no public name for it


def main() -> None:
    """The entry point. An error of the user's is one line; an interruption says how to go on."""
    # A short spin: threads that spin for long slow each other down many times over where cores are shared, and threads that
    # sleep at once are slow to wake (docs/decisions/03-threads.md). Must be set before torch starts.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signals.install_handlers()
    try:
        from spac_repro.cli.root import app  # here, because methods from outside are loaded with it, and they may be refused

        code = app(prog_name="spac-repro", standalone_mode=False)
        if code == INTERRUPTED:  # typer catches an interruption, and says nothing
            _end_interrupted()
        sys.exit(code)
    except UserError as error:
        if distributed.is_main_process():
            print(f"spac-repro: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except USAGE_ERROR as error:
        print(_usage(error), file=sys.stderr)
        sys.exit(UserError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception:
        if not signals.signal_received():
            raise
        _end_interrupted()  # a library that is interrupted while it is imported fails in words of its own


def _end_interrupted() -> NoReturn:
    """All is closed and written by now. Python's own way out would at times be a death by SIGINT instead of this exit code."""
    if distributed.is_main_process():
        print("spac-repro: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(INTERRUPTED)


def _usage(error: Any) -> str:
    """What is wrong with a command line, in one line; where only the command is missing, typer's message is the help itself."""
    message = str(error.format_message())
    if message.startswith("Usage:"):
        return message
    return (
        f"spac-repro: {' '.join(message.split()).rstrip('.')}; see `{error.ctx.command_path if error.ctx else 'spac-repro'} --help`"
    )
