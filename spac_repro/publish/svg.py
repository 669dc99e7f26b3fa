"""Plots as inline SVG, in a palette for colour-blind readers; every line has its own marker and dash pattern, text stays text."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, without yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MAX_POINTS = 80  # of a curve; longer ones are averaged in blocks
MAX_MARKED_POINTS = 12  # longer curves have a band instead of markers and error bars
NO_LEGEND = "_nolegend_"  # matplotlib's label of what the legend leaves out


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
        label: Its name in the legend.
        x: Places of the points.
        y: Values of the points.
        error: Standard error or deviation at each point; None where it is not known.
        style: Index of colour, marker and dash pattern.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] | None = None
    style: int = 0


@dataclass(frozen=True)
class ExpectedPoint:
    """An expected value with its tolerance; the attributes are those of `Series`."""

    label: str
    x: float
    value: float
    tolerance: float
    style: int


@dataclass(frozen=True)
class Plot:
    """One figure of the report.

    Attributes:
        title: Its title.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        series: Its lines.
        caption: What it shows, in words; also for readers who cannot see it.
        expected: Expected values that are marked.
        iteration_starts: Where an iteration begins, on the x axis.
        integer_x: x is an iteration.
        svg: The rendered figure.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    caption: str
    expected: Sequence[ExpectedPoint] = ()
    iteration_starts: Sequence[float] = ()
    integer_x: bool = False
    svg: str = field(default="", compare=False)


def render_svg(plot: Plot, number: int) -> str:
    """Render a plot as an <svg> element. Its ids start with the figure's number, so they are unique in the page."""
    with _matplotlib_style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        labels = [*(series.label for series in plot.series), *(point.label for point in plot.expected if point.label != NO_LEGEND)]
        columns = 1 if max(map(len, labels), default=0) > 20 else 2
        figure = Figure(figsize=(4.2, 2.5 + 0.22 * math.ceil(len(labels) / columns)), layout="constrained")
        axes = figure.subplots()
        for start in plot.iteration_starts:
            axes.axvline(start, color="#999999", linewidth=0.8)
        many_points = len(plot.series[0].x) > MAX_MARKED_POINTS if plot.series else False
        for series in plot.series:
            _draw_series(axes, series, many_points)
        for point in plot.expected:
            look: dict[str, Any] = {
                "color": COLOURS[point.style % len(COLOURS)],
                "fmt": "_",
                "markersize": 14,
                "capsize": 6,
                "elinewidth": 0.8,
            }
            axes.errorbar([point.x + 0.12], [point.value], yerr=[point.tolerance], label=point.label, **look)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        if plot.integer_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
        if labels:
            figure.legend(loc="outside lower center", ncols=columns, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), number)


def _draw_series(axes: "Axes", series: Series, many_points: bool) -> None:
    """Draw a line: with a band if it has many points, else with markers and error bars."""
    style = series.style % len(COLOURS)
    look: dict[str, Any] = {"color": COLOURS[style], "linestyle": DASHES[style], "label": series.label, "linewidth": 1.6}
    if many_points:
        axes.plot(series.x, series.y, **look)
        if series.error:
            low = [y - (error or 0) for y, error in zip(series.y, series.error, strict=True)]
            high = [y + (error or 0) for y, error in zip(series.y, series.error, strict=True)]
            axes.fill_between(series.x, low, high, color=COLOURS[style], alpha=0.2, linewidth=0)
    else:
        errors = [error or 0.0 for error in series.error] if series.error else None
        axes.errorbar(series.x, series.y, yerr=errors, marker=MARKERS[style], markersize=5, capsize=3, **look)


@contextmanager
def _matplotlib_style() -> Iterator[None]:
    import matplotlib

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "spac-repro",  # equal runs make equal files
        "text.parse_math": False,  # a dollar sign in a task's name is a dollar sign
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        yield


def _inline(text: str, number: int) -> str:
    """Return the <svg> element without prologue and style sheet, hidden from screen readers, which read the caption."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="f{number}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#f{number}-", text)
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the page sets the width
    return head.replace("<svg", '<svg aria-hidden="true" focusable="false"') + ">" + rest


def downsample(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Average a curve in equal blocks, at most `MAX_POINTS` of them; return the blocks' places (from 1) and means."""
    size = -(-len(values) // MAX_POINTS)
    blocks = [values[begin : begin + size] for begin in range(0, len(values), size)] if values else []
    return [1 + i * size + (len(block) - 1) / 2 for i, block in enumerate(blocks)], [sum(block) / len(block) for block in blocks]
