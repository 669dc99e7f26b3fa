"""How commands print: progress on stderr, tables on stdout."""

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
    """Yield the progress reporter of a command: a bar on a terminal, lines elsewhere, nothing with --json."""
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
    """Return an empty table that wraps long cells and never truncates them."""
    from rich.table import Table
    from rich.text import Text

    class PrintableTable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(_printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    table = PrintableTable(title=Text(_printable(title), style="table.title"), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _printable(text: str) -> str:
    """The text without escape sequences, which would move the cursor or rename the window of a terminal."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def show(renderable: Any) -> None:
    """Print a table or text made with rich."""
    from rich.console import Console

    # A pipe has no width. The default of 80 columns would be too narrow for most tables.
    # Without markup: a path or a summary may hold brackets, which rich would take for styles.
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=160)
    console.print(renderable)
