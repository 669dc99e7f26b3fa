"""Verdicts and comparisons as tables for the terminal."""

from typing import TYPE_CHECKING, Any

from spac_repro.runs.verdict import Verdict
from spac_repro.trust.comparison import Comparison, short
from spac_repro.trust.verification import listed

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_verdict(verdict: Verdict, brief: bool = False) -> "RenderableType":
    """The verdict as a table of the compared rows, primary ones first, and lines about the rest.

    `brief` leaves out the rows that neither decide nor disagree, and says how many they are.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colour = {"verified": "green", "disagrees": "red", "unverified": "yellow"}[verdict.status]
    parts: list[Any] = []
    shown = [c for c in verdict.comparisons if c.primary or not c.agrees or not brief]
    if shown:
        table = Table("row", "expected", "fresh", "runs", "difference", "tolerance", "detectable", "verdict")
        for column in table.columns[1:-1]:
            column.justify = "right"
        for c in sorted(shown, key=lambda c: not c.primary):
            numbers = [f"{c.expected:.4f}", f"{c.fresh:.4f}", str(c.runs), f"{c.difference:+.4f}", f"±{c.tolerance:.4f}"]
            detectable = "unknown" if c.smallest_detectable is None else f"{c.smallest_detectable:.4f}"
            style = "" if c.agrees else "red" if c.primary else "yellow"
            name = f"{c.key}{' (primary)' if c.primary else ''}"
            word = c.outcome + (" (without power)" if c.underpowered else "")
            table.add_row(*(Text(cell, style) for cell in (name, *numbers, detectable, word)))
        parts.append(table)
    if left := len(verdict.comparisons) - len(shown):
        parts.append(Text(f"{left} secondary rows agree; `spac-repro verify` shows every row"))
    if brief:
        return Group(*parts, *_ending(verdict, colour))
    reasons = dict.fromkeys(reason for _, reason in verdict.inapplicable)
    parts += [
        Text(f"not compared, {reason}: {listed((key for key, why in verdict.inapplicable if why == reason), most=6)}")
        for reason in reasons
    ]
    if verdict.without_row:
        parts.append(Text(f"without a row: {listed(verdict.without_row, most=6)}"))
    return Group(*parts, *_ending(verdict, colour))


def _ending(verdict: Verdict, colour: str) -> "list[RenderableType]":
    from rich.text import Text

    notes = [Text(f"note: {note}") for note in verdict.notes]
    return [*notes, Text(f"{verdict.status}: {verdict.reason}", f"bold {colour}")]


def render_comparison(comparison: Comparison) -> "RenderableType":
    """The three layers, each begun with its sentence."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    what, where, how_much = comparison.summary
    parts: list[Any] = [Text(f"A {comparison.a}\nB {comparison.b}"), Text(f"\nWhat differs: {what}", "bold")]
    if comparison.differences:
        table = Table("key", "A", "B", "effect", "known about it")
        for column in table.columns:
            column.overflow = "fold"
        for each in comparison.differences:
            known = each.effect.size + (f" [{each.effect.source}]" if each.effect.source else "")
            cells = (each.key, short(each.a), short(each.b), each.effect.sort.value, known)
            table.add_row(*map(Text, cells))
        parts.append(table)
    parts.append(Text(f"\nWhere they first part: {where}", "bold"))
    parts += [Text(f"  {line}") for line in comparison.walk.unfinished]
    parts.append(Text(f"\nHow much it matters: {how_much}", "bold"))
    moved = [change for change in comparison.changes if change.difference != 0]
    if moved:
        table = Table("iteration", "score", "A", "B", "difference", "in words")
        for change in moved:
            numbers = (f"{change.a:.4f}", f"{change.b:.4f}", f"{change.difference:+.4f}")
            table.add_row(str(change.iteration), f"{change.task} {change.metric}", *numbers, change.words)
        parts.append(table)
    return Group(*parts)
