"""Figures and tables of experiments' results: means with 95 % confidence bands over seeds."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spac_repro.runs.files import write_bytes
from spac_repro.theory.result import setting_text

# Okabe and Ito's palette suits colour-blind readers; every method also has its own marker and dash pattern.
STYLES = [
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"), ("#000000", "v", "--"),
    ("#E69F00", "P", "-."), ("#56B4E9", "X", ":"), ("#7F7F7F", "*", "-"), ("#8C510A", "<", "--"), ("#5E3C99", ">", "-."),
]  # fmt: skip
METHODS = [
    "SPAC-T", "KL, bounded reward", "pointwise pessimism", "greedy", "DPO", "χPO", "RPO", "SPAC-T, η = 1"
]  # fmt: skip
AXES = {
    "prototype": ("preference pairs n", "suboptimality 1 − J", "log", "log"),
    "samples": ("preference pairs n (T = n/10)", "suboptimality", "log", "log"),
    "rounds": ("iterations T", "suboptimality", "log", "log"),
    "coverage": ("preference pairs n", "suboptimality", "log", "linear"),
    "uncovered": ("concentrability C∞ of π*", "suboptimality", "log", "linear"),
    "loose": ("critic's bound R / range of the reward", "suboptimality", "linear", "linear"),
    "tuning": ("the method's own parameter", "suboptimality", "log", "linear"),
    "features": ("preference pairs n", "suboptimality", "log", "log"),
    "instance": ("preference pairs n", "suboptimality", "log", "log"),
    "baseline": ("self-play iteration", "mean reward J", "linear", "linear"),
}
NOT_DRAWN = ("IPO", "SFT on chosen", "χ², bounded reward")  # they are in the tables only
FLOOR = 1e-4  # the lowest suboptimality a logarithmic axis shows


def confidence_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [x] of `values` [x, seeds] and the half-width [x] of its 95 % t interval."""
    from scipy.stats import t

    k = values.shape[1]
    return values.mean(axis=1), t.ppf(0.975, k - 1) * values.std(axis=1, ddof=1) / math.sqrt(k)


def draw_figures(result: dict[str, Any], out: Path) -> list[str]:
    """Write <name>.png and, unless the experiment was a quick one, <name>.svg; return the file names."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    name = result["name"]
    xlabel, ylabel, xscale, yscale = AXES[name]
    curves = [c for c in result["curves"] if c["method"] not in NOT_DRAWN and not c["method"].endswith("ten times off")]
    panels = list(dict.fromkeys(curve["panel"] for curve in curves))
    methods = list(dict.fromkeys(curve["method"] for curve in curves))
    methods.sort(key=lambda method: METHODS.index(method) if method in METHODS else len(METHODS))
    with rc_context({"font.size": 9, "svg.hashsalt": name, "svg.fonttype": "none", "axes.spines.top": False,
                     "axes.spines.right": False}):  # fmt: skip
        columns = min(len(panels), 2)
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(3.6 * columns + 2.2, 2.9 * lines), layout="constrained")
        axes = np.atleast_1d(np.asarray(figure.subplots(lines, columns, squeeze=False))).ravel()
        handles: dict[str, Any] = {}
        for axis, panel in zip(axes, panels, strict=False):
            for curve in (c for c in curves if c["panel"] == panel):
                place = methods.index(curve["method"])
                handles.setdefault(curve["method"], _draw_curve(axis, curve, place, yscale))
            for bound in (b for b in result["bounds"] if b["panel"] == panel):
                handles["bound"] = axis.plot(bound["x"], bound["y"], color="black", linewidth=0.8, linestyle=(0, (1, 3)))[0]
            axis.set(xscale=xscale, yscale=yscale, xlabel=xlabel, ylabel=ylabel, title=panel)
            for line, scale in ((axis.xaxis, xscale), (axis.yaxis, yscale)):
                if scale == "log":
                    line.set_major_formatter(lambda value, _: f"{value:,g}")
                    line.set_minor_formatter(lambda value, _: "")
            if yscale == "log":
                axis.set_ylim(bottom=FLOOR)
        for axis in axes[len(panels) :]:
            axis.remove()
        order = [m for m in methods if m in handles] + (["bound"] if "bound" in handles else [])
        figure.legend([handles[m] for m in order], order, loc="outside right upper", frameon=False)
        files = []
        kinds: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
        for kind, metadata in list(kinds.items())[: 1 if result["quick"] else 2]:
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, dpi=150, metadata=metadata)
            figure.set_layout_engine("none")  # the layout was computed for the first file
            write_bytes(out / f"{name}.{kind}", picture.getvalue())
            files.append(f"{name}.{kind}")
    return files


def _draw_curve(axis: Any, curve: dict[str, Any], place: int, yscale: str) -> Any:
    colour, marker, dashes = STYLES[place % len(STYLES)]
    x, (mean, half) = np.array(curve["x"]), confidence_band(np.array(curve["values"]))
    low, high = mean - half, mean + half
    if yscale == "log":
        low, mean = np.maximum(low, FLOOR), np.maximum(mean, FLOOR)
        high = np.maximum(high, FLOOR)
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if len(x) == 1:
        axis.vlines(x, low, high, color=colour, linewidth=1)
    return axis.plot(x, mean, color=colour, marker=marker, linestyle=dashes, markersize=4, linewidth=1.3)[0]


def markdown_table(result: dict[str, Any]) -> str:
    """Return the result as Markdown: mean ± half-width of the 95 % interval, and the setting where it was chosen.

    After the setting stands the mean a factor of ten away from it, on the worse side.
    """
    lines = [
        f"## {result['name']}",
        f"{len(result['seeds'])} seeds; {', '.join(f'{k} {v}' for k, v in result['settings'].items())}",
    ]
    grouped: dict[tuple[str, tuple[float, ...]], list[dict[str, Any]]] = {}
    for curve in result["curves"]:
        grouped.setdefault((curve["panel"], tuple(curve["x"])), []).append(curve)
    for (panel, x), curves in grouped.items():
        lines += ["", f"| {panel or 'method'} | " + " | ".join(f"{v:g}" for v in x) + " |", "| --- |" + " ---: |" * len(x)]
        lines += [f"| {curve['method']} | " + " | ".join(_cells(curve)) + " |" for curve in curves]
    if result["slopes"]:
        lines += ["", "| slope | fitted over | value | 95 % interval |", "| --- | --- | ---: | --- |"]
        for s in result["slopes"]:
            low, high = s["range"]
            interval = f"{s['low']:.3f} … {s['high']:.3f}"
            lines.append(f"| {s['method']}, {s['panel']} | {low:g} … {high:g} | {s['slope']:.3f} | {interval} |")
    if result["tests"]:
        lines += [
            "",
            f"| rival − SPAC(-T) | panel | x | difference | p (paired, two-sided) | p (Holm, of {len(result['tests'])}) |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {t['rival']} | {t['panel']} | {t['x']:g} | {t['gain']:+.4f} | {t['p']:.1e} | {t['p_holm']:.1e} |"
            for t in result["tests"]
        ]
    lines += ["", *(f"* {finding}" for finding in result["findings"])] if result["findings"] else []
    return "\n".join(lines)


def _cells(curve: dict[str, Any]) -> Iterator[str]:
    """Yield the text of a curve's cell at each x."""
    mean, half = confidence_band(np.array(curve["values"]))
    for k, (m, h) in enumerate(zip(mean, half, strict=True)):
        setting = curve["parameter"][k] if curve["parameter"] else None
        away = f"; {np.mean(curve['away'][k]):.4f} away" if curve["away"] else ""
        yield f"{m:.4f} ± {h:.4f}" + (f" (at {setting_text(setting)}{away})" if setting is not None else "")
