"""What a command prints when it fails: one line, once, whichever of its processes failed."""

import json
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.optim import distributed, launch
from spac_repro.runs import system_errors

EXIT_CRASH = 70  # an error of the program itself, as in BSD's sysexits.h


def report_user_error(error: UserError) -> int:
    """Print a user's error; return the exit code."""
    return _report(one_line(error), error.exit_code, error)


def report_crash(error: Exception) -> int:
    """Print an error that no one foresaw; return the exit code.

    What the operating system refused (a full disk, a missing file, too little memory) is said as such. Any other error is one of
    the program itself: its traceback is kept in a file.
    """
    if refused := system_errors.explain(error):
        return report_user_error(refused)
    kept = _keep_traceback(error)
    what = one_line(f"{type(error).__name__}: {error}", 100)
    where = f"the traceback is in {kept}" if kept else "the traceback could not be written"
    return _report(one_line(f"internal error, {what}; {where}; please report it"), EXIT_CRASH, error)


def _report(message: str, code: int, error: Exception) -> int:
    """Print the message. One of several processes leaves it for its launcher, which knows what the others say."""
    folder = os.environ.get(launch.FAILURES_VARIABLE)
    if folder is None:
        if distributed.is_main_process():
            print(f"spac-repro: {message}", file=sys.stderr)
    elif not distributed.is_copy_of_main_process_error(error):
        content = {"rank": distributed.rank(), "message": message, "crash": code == EXIT_CRASH}
        with suppress(OSError):
            Path(folder, f"{distributed.rank()}.json").write_text(json.dumps(content), encoding="utf-8")
    return code


def _keep_traceback(error: Exception) -> str | None:
    try:
        descriptor, path = tempfile.mkstemp(prefix="spac-repro-crash-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"spac-repro {' '.join(sys.argv[1:])}\n\n")
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return path
