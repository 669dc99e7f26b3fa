"""Verdicts and comparisons as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spac_repro.runs.verdict import ScoreComparison, Verdict
from spac_repro.trust.comparison import Comparison, abbreviate
from spac_repro.trust.verification import join_names

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def render_verdict(verdict: Verdict, brief: bool = False) -> "RenderableType":
    """The verdict as a table of the compared rows, primary ones first, followed by notes.

    Args:
        verdict: what verification found.
        brief: show only primary rows and rows that disagree, and the number of the others.
    """
    from rich.console import Group
    from rich.text import Text

    shown = [row for row in verdict.comparisons if row.primary or not row.agrees or not brief]
    parts: list[Any] = [_verdict_table(shown)] if shown else []
    if hidden := len(verdict.comparisons) - len(shown):
        parts.append(Text(f"{hidden} secondary rows agree; `spac-repro verify` shows every row"))
    if not brief:
        for reason in dict.fromkeys(reason for _, reason in verdict.inapplicable):
            keys = (key for key, why in verdict.inapplicable if why == reason)
            parts.append(Text(f"not compared, {reason}: {join_names(keys, most=6)}"))
        if verdict.without_row:
            parts.append(Text(f"without a row: {join_names(verdict.without_row, most=6)}"))
        parts += [Text(f"checked: {line}") for line in verdict.files]
        if verdict.expected_file:
            parts.append(Text(f"expected results: {verdict.expected_file}"))
    parts += [Text(f"note: {note}") for note in verdict.notes]
    colour = {"verified": "green", "disagrees": "red", "unverified": "yellow"}[verdict.status]
    return Group(*parts, Text(f"{verdict.status}: {verdict.reason}", f"bold {colour}"))


def _verdict_table(rows: Sequence[ScoreComparison]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("row", "expected", "fresh", "runs", "difference", "tolerance", "detectable", "verdict")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in sorted(rows, key=lambda row: not row.primary):
        name = f"{row.key}{' (primary)' if row.primary else ''}"
        numbers = (f"{row.expected:.4f}", f"{row.fresh:.4f}", str(row.runs), f"{row.difference:+.4f}", f"±{row.tolerance:.4f}")
        detectable = "unknown" if row.smallest_detectable is None else f"{row.smallest_detectable:.4f}"
        outside = f" ({' and '.join(row.faults)})" if row.several and row.faults else ""
        outcome = row.outcome + outside + (" (without power)" if row.underpowered else "")
        style = "" if row.agrees else "red" if row.primary else "yellow"
        table.add_row(*(Text(cell, style) for cell in (name, *numbers, detectable, outcome)))
    return table


def render_comparison(comparison: Comparison) -> "RenderableType":
    """The three layers of a comparison, each headed by its sentence."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    what, where, how_much = comparison.summary
    parts: list[Any] = [Text(f"A {comparison.a}\nB {comparison.b}"), Text(f"\nWhat differs: {what}", "bold")]
    if comparison.differences:
        table = Table("key", "A", "B", "impact", "known about it")
        for column in table.columns:
            column.overflow = "fold"
        for difference in comparison.differences:
            known = difference.known.size + (f" [{difference.known.source}]" if difference.known.source else "")
            values = (abbreviate(difference.a), abbreviate(difference.b))
            table.add_row(*map(Text, (difference.key, *values, difference.impact.value, known)))
        parts.append(table)
    parts.append(Text(f"\nWhere they first differ: {where}", "bold"))
    parts += [Text(f"  {line}") for line in comparison.first_difference.unfinished]
    parts += [Text(f"checked: {line}") for line in comparison.files]
    parts.append(Text(f"\nHow much it matters: {how_much}", "bold"))
    parts += [Text(f"left out of the spread: {line}") for line in comparison.left_out]
    changed = [change for change in comparison.score_differences if change.difference != 0]
    if changed:
        table = Table("iteration", "score", "A", "B", "difference", "in words")
        for change in changed:
            numbers = (f"{change.a:.4f}", f"{change.b:.4f}", f"{change.difference:+.4f}")
            table.add_row(str(change.iteration), f"{change.task} {change.metric}", *numbers, change.in_words)
        parts.append(table)
    return Group(*parts)
