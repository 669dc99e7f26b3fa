"""Where the rows of two runs first differ: preferences, self-play responses, reference log-probabilities."""

from collections.abc import Sequence
from typing import Any

from spac_repro.runs.parquet import Columns
from spac_repro.trust.parting import Parting, shown

PREFERENCE = ("prompt", "chosen", "rejected")


def first_absent(a: Columns, b: Columns, columns: Sequence[str], stage: str, iteration: int | None) -> Parting | None:
    """The first of some columns that one of the two has and the other lacks."""
    for column in columns:
        if (column in a) != (column in b):
            there = ("there" if column in each else "absent" for each in (a, b))
            return Parting(stage, iteration, "every row", column, *there)
    return None


def first_cell(a: Columns, b: Columns, columns: Sequence[str], stage: str, iteration: int) -> Parting | None:
    """The first row in which one of some columns, or its tokens, differ; row by row, as far as both go."""
    for row in range(min(len(a["prompt"]), len(b["prompt"]))):
        for column in columns:
            x, y = a[column][row], b[column][row]
            if x != y or _tokens(a, column, row) != _tokens(b, column, row):
                return Parting(stage, iteration, f"row {row + 1}", column, shown(x), shown(y))
    return None


def first_preference(a: Columns, b: Columns) -> Parting | None:
    """The first preference that differs, and in how many and in what way the two sets of rows differ."""
    ours, theirs = (list(zip(*(each[name] for name in PREFERENCE), strict=True)) for each in (a, b))
    if ours == theirs:
        return _first_tokens(a, b)
    common = min(len(ours), len(theirs))
    differing = [row for row in range(common) if ours[row] != theirs[row]]
    if not differing:
        return Parting("data", None, f"row {common + 1}", "the number of rows", str(len(ours)), str(len(theirs)))
    if sorted(ours) == sorted(theirs):
        note = f"the same rows in another order: {len(differing)} of {common} are elsewhere"
    else:
        note = f"{len(differing)} of {common} rows differ"
    row = differing[0]
    return Parting("data", None, f"row {row + 1}", *_pair(ours[row], theirs[row], note))


def _pair(one: tuple[str, ...], other: tuple[str, ...], note: str) -> tuple[str, str, str, str]:
    """What differs in two preferences, the two values, and a note that ends with `note`."""
    if one[0] == other[0] and one[1:] == other[:0:-1]:
        return "the preferred response", shown(one[1]), shown(other[1]), f"the label is flipped; {note}"
    column = next(place for place in range(3) if one[place] != other[place])
    texts = (one[column], other[column])
    place = next((i for i, (c, d) in enumerate(zip(*texts, strict=False)) if c != d), min(map(len, texts)))
    x, y = (shown(f"{'…' if place > 20 else ''}{text[max(0, place - 20) :]}") for text in texts)
    return PREFERENCE[column], x, y, f"from character {place + 1} on; {note}"


def _first_tokens(a: Columns, b: Columns) -> Parting | None:
    """The first text whose tokens differ, the texts being equal."""
    for row in range(len(a["prompt"])):
        for name in PREFERENCE:
            x, y = (_tokens(each, name, row) for each in (a, b))
            if x != y:
                what = f"the {name}'s tokens"
                return Parting("data", None, f"row {row + 1}", what, shown(x), shown(y), "the texts are equal")
    return None


def _tokens(table: Columns, column: str, row: int) -> Any:
    return table[f"{column}_tokens"][row] if f"{column}_tokens" in table else None
