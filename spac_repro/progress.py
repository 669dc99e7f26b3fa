"""What a long command says while it works: a bar on a terminal, a line a stage elsewhere, nothing where JSON is asked for."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol


class Progress(Protocol):
    """Where long work reports to."""

    def start_stage(self, name: str) -> None:
        """A new stage begins."""

    def update(self, done: int, total: int) -> None:
        """So much of the stage is done."""

    def message(self, line: str) -> None:
        """Something the user should read, now or later."""


class MessagesOnly:
    """Says nothing but what the user should read."""

    def start_stage(self, name: str) -> None:
        pass

    def update(self, done: int, total: int) -> None:
        pass

    def message(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class NoProgress(MessagesOnly):
    """Says nothing at all: for all but the first of several processes."""

    def message(self, line: str) -> None:
        pass


class LogProgress(MessagesOnly):
    """One line when a stage begins: for logs."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def start_stage(self, name: str) -> None:
        self.message(f"[{time.monotonic() - self.begun:6.1f} s] {name}")


class ProgressBar:
    """A progress bar a stage: for terminals. A context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        columns: list[Any] = [TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn()]
        self.rich = Rich(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self.task: Any = None

    def __enter__(self) -> "ProgressBar":
        self.rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.rich.stop()

    def start_stage(self, name: str) -> None:
        if self.task is not None:
            self.rich.stop_task(self.task)
        self.task = self.rich.add_task(name, total=None)

    def update(self, done: int, total: int) -> None:
        if self.task is not None:
            self.rich.update(self.task, completed=done, total=total)

    def message(self, line: str) -> None:
        self.rich.console.print(line, highlight=False, markup=False)
