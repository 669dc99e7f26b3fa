"""What reading a data set found: the columns, the rows that were kept, and the rows that were dropped, by reason."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spac_repro.data.columns import Layout
from spac_repro.documents.errors import one_line

MAX_COLUMNS = 1000  # names that are remembered; JSON rows may each have others


@dataclass(frozen=True)
class DroppedRows:
    """The rows that were dropped for one reason.

    Attributes:
        number: of them.
        first_row: number of the first one in the data set, from 1.
        first_place: its file, and its line or row there.
    """

    number: int
    first_row: int
    first_place: str


@dataclass(frozen=True)
class ReadingSummary:
    """What reading a data set found.

    Attributes:
        read_columns: the columns that were read.
        ignored_columns: all other columns.
        ignored_prompt_columns: those of them whose names say that they are part of a prompt.
        kept: number of the preference pairs.
        dropped: the rows that were dropped, by reason.
    """

    read_columns: tuple[str, ...]
    ignored_columns: tuple[str, ...]
    ignored_prompt_columns: tuple[str, ...]
    kept: int
    dropped: Mapping[str, DroppedRows]

    @property
    def number_dropped(self) -> int:
        """The number of rows that were dropped."""
        return sum(rows.number for rows in self.dropped.values())

    def messages(self) -> Iterator[str]:
        """Yield what a user must know before training, a line each: dropped rows, and columns that may belong to the prompt."""
        for reason, rows in self.dropped.items():
            place = one_line(rows.first_place)
            yield f"{rows.number:,} of {self.kept + self.number_dropped:,} rows dropped: {reason} (first: {place})"
        for name in self.ignored_prompt_columns:
            yield f"the column {name} is not read; rename it to `prompt` or `system` if it belongs to the prompt"

    def recorded(self) -> dict[str, Any]:
        """Return what a manifest records: counts and row numbers, no paths. It is empty where nothing was dropped."""
        if not self.dropped:
            return {}
        dropped = {reason: {"rows": rows.number, "first_row": rows.first_row} for reason, rows in self.dropped.items()}
        return {"rows_kept": self.kept, "rows_dropped": dropped}


class Tally:
    """Counts rows while they are read."""

    def __init__(self) -> None:
        """Begin with no row."""
        self.rows = 0
        self._layout: Layout | None = None
        self._columns: tuple[dict[str, None], ...] = ({}, {}, {})  # read, ignored, ignored although part of a prompt
        self._dropped: Counter[str] = Counter()
        self._firsts: dict[str, tuple[int, str]] = {}

    def add(self, layout: Layout) -> None:
        """Count a row with this layout."""
        self.rows += 1
        if layout is self._layout:
            return
        self._layout = layout
        for seen, names in zip(self._columns, (layout.read, layout.ignored, layout.ignored_prompt_columns), strict=True):
            seen.update(dict.fromkeys(names[: MAX_COLUMNS - len(seen)]))

    def drop(self, reason: str, where: str) -> None:
        """Count the last row as dropped."""
        self._dropped[reason] += 1
        self._firsts.setdefault(reason, (self.rows, where))

    def summary(self, kept: int) -> ReadingSummary:
        """Return the summary of all rows so far."""
        dropped = {reason: DroppedRows(number, *self._firsts[reason]) for reason, number in self._dropped.items()}
        read, ignored, ignored_prompt = map(tuple, self._columns)
        return ReadingSummary(read, ignored, ignored_prompt, kept, dropped)
