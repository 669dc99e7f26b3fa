"""Progress of a long command: a bar on a terminal, one line per stage in a log, messages only with `--json`."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol


class Progress(Protocol):
    """What long work reports its progress to."""

    def start_stage(self, name: str) -> None:
        """Begin a new stage."""

    def update(self, done: int, total: int) -> None:
        """Report that `done` of `total` parts of the stage are done."""

    def message(self, line: str) -> None:
        """Show a line that the user should read."""


class MessagesOnly:
    """Show messages on standard error, and no progress."""

    def start_stage(self, name: str) -> None:
        """Show nothing."""

    def update(self, done: int, total: int) -> None:
        """Show nothing."""

    def message(self, line: str) -> None:
        """Print a line on standard error."""
        print(line, file=sys.stderr, flush=True)


class NoProgress(MessagesOnly):
    """Show nothing at all. For every process but the main one."""

    def message(self, line: str) -> None:
        """Show nothing."""


class LogProgress(MessagesOnly):
    """Print one line when a stage begins. For logs."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def start_stage(self, name: str) -> None:
        """Print the stage's name and the seconds since the command began."""
        self.message(f"[{time.monotonic() - self._started:6.1f} s] {name}")


class ProgressBar:
    """Show one progress bar per stage on a terminal. A context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns: list[Any] = [TextColumn("{task.description:<34}", markup=False), BarColumn(), MofNCompleteColumn()]
        self._progress = RichProgress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self._task: Any = None

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start_stage(self, name: str) -> None:
        """Stop the current bar and add one for a new stage."""
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._task = self._progress.add_task(name, total=None)

    def update(self, done: int, total: int) -> None:
        """Move the current bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def message(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, highlight=False, markup=False)
