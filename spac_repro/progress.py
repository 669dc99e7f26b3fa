"""What a long command says while it works: a bar on a terminal, a line a stage elsewhere, nothing where JSON is asked for."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol


class Progress(Protocol):
    """Where long work reports to."""

    def stage(self, name: str) -> None:
        """A new stage begins."""

    def advance(self, done: int, total: int) -> None:
        """So much of the stage is done."""

    def say(self, line: str) -> None:
        """Something the user should read, now or later."""


class Silent:
    """Says nothing but what the user should read."""

    def stage(self, name: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Mute(Silent):
    """Says nothing at all: for all but the first of several processes."""

    def say(self, line: str) -> None:
        pass


class Lines(Silent):
    """One line when a stage begins: for logs."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def stage(self, name: str) -> None:
        self.say(f"[{time.monotonic() - self.begun:6.1f} s] {name}")


class Bar:
    """A progress bar a stage: for terminals. A context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        columns: list[Any] = [TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn()]
        self.rich = Rich(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self.task: Any = None

    def __enter__(self) -> "Bar":
        self.rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.rich.stop()

    def stage(self, name: str) -> None:
        if self.task is not None:
            self.rich.stop_task(self.task)
        self.task = self.rich.add_task(name, total=None)

    def advance(self, done: int, total: int) -> None:
        if self.task is not None:
            self.rich.update(self.task, completed=done, total=total)

    def say(self, line: str) -> None:
        self.rich.console.print(line, highlight=False, markup=False)
