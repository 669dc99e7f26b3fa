"""The first mismatch between the training rows of two runs: preferences, self-play responses, reference log-probabilities."""

from collections.abc import Sequence
from typing import Any

from spac_repro.runs.parquet import Columns
from spac_repro.trust.mismatch import Mismatch, format_value

PREFERENCE = ("prompt", "chosen", "rejected")


def first_missing_column(a: Columns, b: Columns, columns: Sequence[str], stage: str, iteration: int | None) -> Mismatch | None:
    """The first of `columns` that only one of the two tables has."""
    for column in columns:
        if (column in a) != (column in b):
            values = ("there" if column in table else "absent" for table in (a, b))
            return Mismatch(stage, iteration, "every row", column, *values)
    return None


def first_row_mismatch(a: Columns, b: Columns, columns: Sequence[str], stage: str, iteration: int) -> Mismatch | None:
    """The first row in which one of `columns`, or its tokens, differ. Rows that only one table has are not looked at."""
    for row in range(min(len(a["prompt"]), len(b["prompt"]))):
        for column in columns:
            x, y = a[column][row], b[column][row]
            if x != y or _tokens(a, column, row) != _tokens(b, column, row):
                return Mismatch(stage, iteration, f"row {row + 1}", column, format_value(x), format_value(y))
    return None


def first_preference_mismatch(a: Columns, b: Columns) -> Mismatch | None:
    """The first preference that differs. Its note says how many rows differ, and whether only their order does."""
    rows_a, rows_b = (list(zip(*(table[name] for name in PREFERENCE), strict=True)) for table in (a, b))
    if rows_a == rows_b:
        return _first_token_mismatch(a, b)
    common = min(len(rows_a), len(rows_b))
    differing = [row for row in range(common) if rows_a[row] != rows_b[row]]
    if not differing:
        return Mismatch("data", None, f"row {common + 1}", "the number of rows", str(len(rows_a)), str(len(rows_b)))
    if sorted(rows_a) == sorted(rows_b):
        note = f"the same rows in another order: {len(differing)} of {common} are elsewhere"
    else:
        note = f"{len(differing)} of {common} rows differ"
    row = differing[0]
    return Mismatch("data", None, f"row {row + 1}", *_describe_pair(rows_a[row], rows_b[row], note))


def _describe_pair(a: tuple[str, ...], b: tuple[str, ...], note: str) -> tuple[str, str, str, str]:
    """What differs between two preferences, the two values, and a note that ends with `note`."""
    if a[0] == b[0] and a[1:] == b[:0:-1]:
        return "the preferred response", format_value(a[1]), format_value(b[1]), f"the label is flipped; {note}"
    column = next(place for place in range(3) if a[place] != b[place])
    texts = (a[column], b[column])
    place = next((i for i, (c, d) in enumerate(zip(*texts, strict=False)) if c != d), min(map(len, texts)))
    x, y = (format_value(f"{'…' if place > 20 else ''}{text[max(0, place - 20) :]}") for text in texts)
    return PREFERENCE[column], x, y, f"from character {place + 1} on; {note}"


def _first_token_mismatch(a: Columns, b: Columns) -> Mismatch | None:
    """The first text whose tokens differ although all texts are equal."""
    for row in range(len(a["prompt"])):
        for name in PREFERENCE:
            x, y = (_tokens(table, name, row) for table in (a, b))
            if x != y:
                what = f"the {name}'s tokens"
                return Mismatch("data", None, f"row {row + 1}", what, format_value(x), format_value(y), "the texts are equal")
    return None


def _tokens(table: Columns, column: str, row: int) -> Any:
    return table[f"{column}_tokens"][row] if f"{column}_tokens" in table else None
