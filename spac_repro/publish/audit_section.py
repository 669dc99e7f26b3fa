"""The audit of data versus self-play: its tables in a report and its lines in a model card."""

from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro.publish.groups import Group, RunView
from spac_repro.runs.audit import Audit


def warnings(views: Sequence[RunView]) -> list[str]:
    """Return a sentence for every classifier of every run that rendering alone helps."""
    return [
        f"{view.name}, iteration {t}: {line}" for view in views for t, audit in view.audits.items() for line in audit.warnings()
    ]


def audit_tables(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield the tables of each group's first run: the sides by iteration, the classifiers, and what encoding anew changes."""
    for group in groups:
        audits = group.first.audits
        if audits:
            yield {
                "name": group.first.name,
                "sides": [row for t, audit in audits.items() for row in _side_rows(t, audit)],
                "classifiers": [row for t, audit in audits.items() for row in classifier_rows(t, audit)],
                "changes": [(t, line) for t, audit in audits.items() if (line := changes_in_words(audit))],
            }


def _side_rows(t: int, audit: Audit) -> Iterator[dict[str, Any]]:
    for name, side in audit.sides.items():
        quantile = side.length_quantile
        yield {
            "iteration": t,
            "name": name,
            "rows": audit.rows,
            "cut": f"{side.cut:.1%}",
            "lengths": f"{quantile[0.1]} · {quantile[0.5]} · {quantile[0.9]}",
            "first_tokens": ", ".join(f"{token} {share:.0%}" for token, share in side.first_tokens),
        }


def classifier_rows(t: int, audit: Audit) -> Iterator[dict[str, Any]]:
    """Yield the figures of every classifier of an iteration, as text."""
    for data, comparison in audit.comparisons.items():
        for name, classifier in comparison.classifiers.items():
            tested = classifier.p is not None
            yield {
                "iteration": t,
                "data": data,
                "name": name,
                "total_variation": f"{classifier.total_variation:.3f} ({classifier.total_variation_by_chance:.3f})",
                "accuracy": _figure(classifier.accuracy) + (f" ± {classifier.stderr:.3f}" if classifier.stderr is not None else ""),
                "rendering": f"{classifier.rendering:+.3f} (p = {classifier.p:.2g})" if tested else "",
                "non_canonical": f"{classifier.non_canonical:+.3f}" if tested else "",
            }


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def changes_in_words(audit: Audit) -> str:
    """Return what decoding and encoding as data changes in the self-play responses; empty where there are none."""
    if audit.non_canonical is None or audit.rewritten is None:
        return ""
    return f"{audit.non_canonical:.1%} are non-canonical (other tokens, same text), and {audit.rewritten:.1%} get another text"


def card_section(t: int, audit: Audit) -> str:
    """Return the section of a model card: a table of the classifiers, and the warnings."""
    lines = [
        f"How well the data's responses and the self-play responses of iteration {t} can be told apart by three traits. The "
        "accuracy is on held-out prompts, and chance is 0.5. Rendering's own share of it should be 0.",
        "",
        "| data | by | accuracy | rendering's own share |",
        "| --- | --- | --- | --- |",
        *(f"| {row['data']} | {row['name']} | {row['accuracy']} | {row['rendering']} |" for row in classifier_rows(t, audit)),
        "",
        f"Of the self-play responses that are encoded anew, {changes_in_words(audit)}.",
        *(f"\n**Warning**: {line}." for line in audit.warnings()),
    ]
    return "\n".join(lines)
