"""The figures of a report: which curves are drawn from which runs, and what each says to whoever cannot see it."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro.publish import plots
from spac_repro.publish.groups import Group, RunView
from spac_repro.publish.plots import Plot, Series
from spac_repro.publish.scores import mean_and_error, score_names
from spac_repro.trust.expected import START, Expected, expected_path, load_expected
from spac_repro.trust.statistics import tolerance

# The scores that sum up the others, each with what it is where its name does not say so.
TELLING = {
    ("gold", "reward"): "",
    ("average", "mean"): "",
    ("heldout", "divergence"): "KL(π_0 ‖ π_t) on held-out prompts, in nats: ",
}


# Metrics of the optimiser steps: name, title, and what they are.
CURVES = (
    ("loss", "Loss", "the training loss, averaged over the examples of a step"),
    ("accuracy", "Preference accuracy", "the share of preferences whose chosen response gained more than the rejected one"),
    ("margin", "Preference margin", "β(ρ(chosen) − ρ(rejected)), in nats"),
    (
        "critic_gap",
        "Critic term",
        "β(ρ(self-play) − mean ρ of the data): below zero, the policy moves from its own samples to the data",
    ),
)


def figures(groups: Sequence[Group]) -> list[Plot]:
    """Every figure that there are numbers for."""
    curves = [_curves(groups, name, title, text) for name, title, text in CURVES]
    return [*_score_plots(groups), *(plot for plot in (*curves, _drift(groups), _lengths(groups)) if plot)]


def _score_plots(groups: Sequence[Group]) -> Iterator[Plot]:
    """The scores that sum up the others, and all of them where there are few."""
    names = list(dict.fromkeys(name for group in groups for name in score_names(group)))
    telling = [name for name in names if name in TELLING] or names[:2]
    many = any(len(group.runs) > 1 for group in groups)
    for task, metric in telling:
        series: list[Series] = []
        marks: list[tuple[str, float, float, float, int]] = []
        for group in groups:
            points = [(t, *found) for t in sorted(group.first.scores) if (found := mean_and_error(group, t, task, metric))]
            if points:
                x, y, error = zip(*points, strict=True)
                series.append(Series(group.label, x, y, error, group.style))
                marks += _marks(group, task, metric, len(group.runs))
        if series:
            bars = "bars are standard deviations over seeds" if many else "bars are the harness's standard errors"
            text = (
                TELLING.get((task, metric), "")
                + f"{task} {metric} of every iterate, 0 being the start; {bars}"
                + ("; flat marks are expected values" if marks else "")
            )
            yield Plot(f"{task} {metric}", "iterate", metric, series, text, marks, whole=True)


def _marks(group: Group, task: str, metric: str, count: int) -> Iterator[tuple[str, float, float, float, int]]:
    """The expected value of a score with its tolerance, where the group's settings are those of the rows."""
    its = group.first.manifest
    expected = _expected(its.recipe)
    if expected is None or expected.settings_sha256.get(its.method, its.settings_sha256) != its.settings_sha256:
        return
    label = f"{group.label}, expected"
    for row in expected.rows:
        if row.method in (its.method, START) and (row.task, row.metric) == (task, metric) and row.value is not None:
            yield label, float(row.iteration or 0), row.value, tolerance(row, count, expected.alpha), group.style
            label = "_nolegend_"


def _curves(groups: Sequence[Group], name: str, title: str, text: str) -> Plot | None:
    series, bounds = [], []
    for group in groups:
        curves = [[step.values[name] for step in view.steps if _finite(step.values.get(name))] for view in group.runs]
        curves = [curve for curve in curves if curve]
        if not curves:
            continue
        length = min(map(len, curves))
        columns = list(zip(*(curve[:length] for curve in curves), strict=True))
        x, y = plots.thinned([statistics.fmean(column) for column in columns])
        error = plots.thinned([statistics.stdev(column) for column in columns])[1] if len(curves) > 1 else None
        series.append(Series(group.label, x, y, error, group.style))
        bounds = _bounds(group.first)
    if not series:
        return None
    band = "; the band is the standard deviation over seeds" if any(each.error for each in series) else ""
    where = "; grey lines stand where an iteration begins" if bounds else ""
    return Plot(title, "optimiser step", name, series, f"{text}{band}{where}", bounds=bounds)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _bounds(view: RunView) -> list[float]:
    """Where a new iteration begins, in steps from the first."""
    places = [step.iteration for step in view.steps]
    return [place + 0.5 for place in range(1, len(places)) if places[place] != places[place - 1]]


def _drift(groups: Sequence[Group]) -> Plot | None:
    """How far each iterate has gone from the start: mean log-ratio to it on the data's responses.

    A run records ρ against its reference. Against the previous iterate the iterations' ρ add up; against the start they need not.
    """
    series = []
    for group in groups:
        for name, style in (("chosen", group.style), ("rejected", group.style + len(groups))):
            tracks = [track for view in group.runs if (track := _track(view, f"rho_{name}"))]
            if tracks:
                length = min(map(len, tracks))
                columns = list(zip(*(track[:length] for track in tracks), strict=True))
                error = [statistics.stdev(column) for column in columns] if len(tracks) > 1 else None
                label = f"{group.label}, {name}"
                series.append(Series(label, range(length), [statistics.fmean(column) for column in columns], error, style))
    if not series:
        return None
    text = (
        "mean log π_t(y|x) − log π_0(y|x), in nats, of the data's chosen and rejected responses, over each iteration's last epoch: "
        "the policy moves during an epoch, so the finished iterate is a little further"
    )
    return Plot("Log-ratio to the start", "iterate", "nats", series, text, whole=True)


def _track(view: RunView, name: str) -> list[float]:
    settings = view.settings
    epochs = max(1, int(settings.get("training", {}).get("epochs_per_iteration", 1)))
    own = settings.get("methods", {}).get(view.manifest.method) or {}
    track = [0.0]
    for t in sorted({step.iteration for step in view.steps}):
        values = [step.values[name] for step in view.steps if step.iteration == t and _finite(step.values.get(name))]
        if not values:
            return []
        mean = statistics.fmean(values[-max(1, len(values) // epochs) :])
        track.append(mean + (track[-1] if own.get("reference_policy") == "previous" else 0.0))
    return track


def _lengths(groups: Sequence[Group]) -> Plot | None:
    """Mean response length in tokens: the data's, and what each iterate says."""
    series = []
    data: dict[str, tuple[list[float], list[float]]] = {}
    for group in groups:
        x, y = [], []
        for its in group.first.folder.iterations():
            if not its.has_triples:
                continue
            t, table = its.number, its.read_triples()
            for name in ("chosen", "rejected"):
                xs, ys = data.setdefault(name, ([], []))
                if t - 1 not in xs:
                    xs.append(t - 1)
                    ys.append(statistics.fmean(map(len, table[f"{name}_tokens"])))
            if "selfplay_tokens" in table:
                x.append(float(t - 1))
                y.append(statistics.fmean(map(len, table["selfplay_tokens"])))
        if x:
            series.append(Series(f"{group.label}, self-play", x, y, None, group.style))
    for place, (name, (xs, ys)) in enumerate(data.items()):
        series.append(Series(f"data, {name}", xs, ys, None, len(groups) + place))
    if not series:
        return None
    text = "mean response length; the self-play responses at t are those of iterate t, on which iteration t + 1 trains"
    return Plot("Response lengths", "iterate", "tokens", series, text, whole=True)


def _expected(recipe: str) -> Expected | None:
    path = expected_path(recipe)
    return load_expected(path) if path.exists() else None
