"""What commands print: progress while they work, and tables."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spac_repro.optim import distributed

if TYPE_CHECKING:
    from rich.table import Table

    from spac_repro.progress import Progress


@contextmanager
def progress(as_json: bool) -> Iterator["Progress"]:
    """Where a command's work reports to: a bar on a terminal, lines elsewhere, nothing where JSON is asked for."""
    from spac_repro.progress import LogProgress, MessagesOnly, NoProgress, ProgressBar

    if not distributed.is_main_process():
        yield NoProgress()
    elif as_json:
        yield MessagesOnly()
    elif sys.stderr.isatty():
        with ProgressBar() as bar:
            yield bar
    else:
        yield LogProgress()


def table(title: str, *columns: str) -> "Table":
    """An empty table whose cells are folded and never cut."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def show(renderable: Any) -> None:
    """Print a table or text of rich's."""
    from rich.console import Console

    # A pipe has no width of its own; a table cut off at 80 columns would lose what it is read for.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(renderable, markup=False)
