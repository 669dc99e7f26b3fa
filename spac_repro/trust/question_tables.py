"""Comparisons question by question, as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spac_repro.documents.errors import one_line
from spac_repro.trust.mismatch import format_value
from spac_repro.trust.paired_scores import PairedScore
from spac_repro.trust.question_comparison import ChangedQuestion, QuestionComparison

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def render_questions(comparison: QuestionComparison, show: int, *, protocols: bool = True) -> "RenderableType":
    """The protocol, a row for each score, and the first questions that changed.

    Args:
        comparison: what was compared.
        show: number of questions that are listed.
        protocols: whether the protocols are named; False where they were named before.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(comparison.protocols)] if protocols else []
    parts += [Text(f"{side} {', '.join(names)}") for side, names in (("A", comparison.a), ("B", comparison.b))]
    parts.append(Text(f"\nQuestion by question: {comparison.summary}", "bold"))
    parts.append(_score_table(comparison))
    parts.append(Text(comparison.assumptions))
    parts += [Text(f"{row.task}: {note}") for row in comparison.scores if (note := row.note)]
    if comparison.left_out:
        parts.append(Text(f"not in all of them, and left out: {', '.join(comparison.left_out)}"))
    changed = comparison.changed
    some = f"; the first {show}" if 0 < show < len(changed) else ""
    parts.append(Text(f"\nQuestions that changed: {len(changed)}, of which {flips(changed)} flipped{some}", "bold"))
    if changed and show:
        parts.append(_question_table(comparison, show))
    return Group(*parts)


def flips(changed: Sequence[ChangedQuestion]) -> int:
    """The number of questions that one of A and B has right and the other wrong."""
    return sum(each.flipped for each in changed)


def _score_table(comparison: QuestionComparison) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("score", "n", "A", "B", "gained", "lost", "B − A", "95 % interval", "p", "p (Holm)", "detectable", "noise")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in comparison.scores:
        style = "bold" if row.significant else "" if row.primary else "dim"
        table.add_row(*(Text(cell, style) for cell in cells(row)))
    return table


def cells(row: PairedScore) -> tuple[str, ...]:
    """The cells of a score: name, questions, A, B, gained, lost, difference, interval, p, corrected p, detectable, noise."""
    n = f"{row.questions}" + (f" in {row.clusters}" if row.clusters < row.questions else "")
    interval = "–" if row.low is None or row.high is None else f"[{row.low:+.4f}, {row.high:+.4f}]"
    p = "–" if row.p is None else f"{row.p.value:.2g}" + (f" ± {row.p.error:.1g}" if row.p.error else "")
    corrected = "–" if row.corrected_p is None else f"{row.corrected_p:.2g}"
    detectable = "–" if row.detectable is None else f"{row.detectable:.4f}"
    flipped = ("–" if number is None else str(number) for number in (row.gained, row.lost))
    numbers = (f"{row.a:.4f}", f"{row.b:.4f}", *flipped, f"{row.difference:+.4f}", interval, p, corrected, detectable)
    return (one_line(f"{row.task} {row.metric}"), n, *numbers, noise(row))


def noise(row: PairedScore) -> str:
    """Where the p value comes from, and the standard errors that seeds and questions alone have."""
    method = row.p.method if row.p else ""
    if row.seeds_stderr is None or row.questions_stderr is None:
        return method
    return f"seeds {row.seeds_stderr:.4f}, questions {row.questions_stderr:.4f}"


def _question_table(comparison: QuestionComparison, show: int) -> "Table":
    from rich.table import Table
    from rich.text import Text

    run = whose_answers(comparison)
    table = Table("task", "question", "hash", "flipped", "right", "A", "B", f"A answers{run}", f"B answers{run}")
    for each in comparison.changed[:show]:
        table.add_row(*map(Text, question_cells(each)))
    return table


def whose_answers(comparison: QuestionComparison) -> str:
    """What follows "A answers" in a heading: values are means over runs, and answers are those of the first."""
    return " (first run)" if comparison.several_runs else ""


def question_cells(each: ChangedQuestion) -> tuple[str, ...]:
    """The cells of a question that changed: task, question, hash, flip, what is right, values of A and B, and their answers."""
    right, *answers = (format_value(text, 40) for text in (each.gold, each.answer_a, each.answer_b))
    names = (one_line(name, 60) for name in (each.task, each.item_id, each.content_sha256[:8]))
    return (*names, "yes" if each.flipped else "", right, f"{each.a:.3g}", f"{each.b:.3g}", *answers)
