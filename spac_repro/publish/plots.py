"""Plots as inline SVG: colours that colour-blind readers tell apart, each with a marker and a dash of its own, text as text."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Okabe and Ito's palette, without yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MOST_POINTS = 80  # of a curve; longer ones are averaged in blocks


@dataclass(frozen=True)
class Series:
    """One line: its points, and how far each is from certain (None: not known)."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] | None = None
    style: int = 0


@dataclass(frozen=True)
class Plot:
    """One figure of the report, `title` for the reader and `text` for whoever cannot see it."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    text: str
    expected: Sequence[tuple[str, float, float, float, int]] = ()  # label, x, value, tolerance, style
    bounds: Sequence[float] = ()  # where an iteration begins
    whole: bool = False  # x is an iteration
    svg: str = field(default="", compare=False)


def svg(plot: Plot, number: int) -> str:
    """The figure as an <svg> element whose ids no other figure has."""
    with _style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        labels = [*(series.label for series in plot.series), *(mark[0] for mark in plot.expected if not mark[0].startswith("_"))]
        columns = 1 if max(map(len, labels), default=0) > 20 else 2
        figure = Figure(figsize=(4.2, 2.5 + 0.22 * math.ceil(len(labels) / columns)), layout="constrained")
        axes = figure.subplots()
        for bound in plot.bounds:
            axes.axvline(bound, color="#999999", linewidth=0.8)
        many = len(plot.series[0].x) > 12 if plot.series else False
        for series in plot.series:
            style = series.style % len(COLOURS)
            look: dict[str, Any] = {"color": COLOURS[style], "linestyle": DASHES[style], "label": series.label, "linewidth": 1.6}
            if many:
                axes.plot(series.x, series.y, **look)
                if series.error:
                    low = [y - (error or 0) for y, error in zip(series.y, series.error, strict=True)]
                    high = [y + (error or 0) for y, error in zip(series.y, series.error, strict=True)]
                    axes.fill_between(series.x, low, high, color=COLOURS[style], alpha=0.2, linewidth=0)
            else:
                error = [e or 0.0 for e in series.error] if series.error else None
                axes.errorbar(series.x, series.y, yerr=error, marker=MARKERS[style], markersize=5, capsize=3, **look)
        for label, x, value, tolerance, style in plot.expected:
            look = {"color": COLOURS[style % len(COLOURS)], "fmt": "_", "markersize": 14, "capsize": 6, "elinewidth": 0.8}
            axes.errorbar([x + 0.12], [value], yerr=[tolerance], label=label, **look)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        if plot.whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        if labels:
            figure.legend(loc="outside lower center", ncols=columns, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inlined(buffer.getvalue(), number)


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    plain: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "spac-repro",  # equal runs make equal files
        "text.parse_math": False,  # a dollar sign in a task's name is a dollar sign
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(plain):
        yield


def _inlined(text: str, number: int) -> str:
    """The <svg> element alone: without prologue and style sheet, hidden from readers that the figure's own text serves."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="f{number}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#f{number}-", text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the page says how wide it is
    return head.replace("<svg", '<svg aria-hidden="true" focusable="false"') + ">" + rest


def thinned(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Places (from 1) and values of a curve, averaged in blocks where there are more than a figure can show."""
    size = -(-len(values) // MOST_POINTS)
    blocks = [values[begin : begin + size] for begin in range(0, len(values), size)] if values else []
    return [1 + i * size + (len(block) - 1) / 2 for i, block in enumerate(blocks)], [sum(block) / len(block) for block in blocks]
