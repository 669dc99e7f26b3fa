"""The figures of a report: which curves are drawn from which runs, with captions that describe them in words."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from spac_repro.publish import svg
from spac_repro.publish.glossary import DEFINITIONS
from spac_repro.publish.groups import Group, RunView
from spac_repro.publish.scores import mean_and_error, score_names, values_of_runs
from spac_repro.publish.svg import ExpectedPoint, Plot, Series
from spac_repro.trust.expected import START, ExpectedResults, expected_path, load_expected
from spac_repro.trust.statistics import limits

# The scores that summarise a run, each with a prefix of its caption.
SUMMARY_SCORES = {
    ("gold", "reward"): "",
    ("average", "mean"): "",
    ("heldout", "divergence"): "KL(π_0 ‖ π_t) on held-out prompts, in nats: ",
}

# Metrics of the optimizer steps, and the titles of their figures.
STEP_METRICS = {
    "loss": "Loss",
    "accuracy": "Preference accuracy",
    "margin": "Preference margin",
    "critic_gap": "Critic gap",
}


def figures(groups: Sequence[Group]) -> list[Plot]:
    """Return every figure for which there are numbers."""
    curves = [_step_curves(groups, name, title) for name, title in STEP_METRICS.items()]
    others = (_log_ratio_to_start(groups), _response_lengths(groups))
    return [*_score_plots(groups), *(plot for plot in (*curves, *others) if plot)]


def _score_plots(groups: Sequence[Group]) -> Iterator[Plot]:
    """Yield a figure for each summary score; where a run has none of them, for its first two scores."""
    names = list(dict.fromkeys(name for group in groups for name in score_names(group)))
    several_seeds = any(len(group.runs) > 1 for group in groups)
    for task, metric in [name for name in names if name in SUMMARY_SCORES] or names[:2]:
        series: list[Series] = []
        expected: list[ExpectedPoint] = []
        for group in groups:
            means = ((t, mean_and_error(group, t, task, metric)) for t in sorted(group.first.scores))
            points = [(t, *mean) for t, mean in means if mean]
            if points:
                x, y, error = zip(*points, strict=True)
                series.append(Series(group.label, x, y, error, group.style))
                expected += _expected_points(group, task, metric)
        if series:
            bars = "bars are standard deviations over seeds" if several_seeds else "bars are standard errors over items"
            caption = (
                SUMMARY_SCORES.get((task, metric), "")
                + f"{task} {metric} of every iterate, 0 being the start; {bars}"
                + ("; flat marks are expected values with their tolerance" if expected else "")
            )
            yield Plot(f"{task} {metric}", "iterate", metric, series, caption, expected, integer_x=True)


def _expected_points(group: Group, task: str, metric: str) -> Iterator[ExpectedPoint]:
    """Yield the expected values of a score, if the expected results are of the group's settings."""
    manifest = group.first.manifest
    expected = _expected_results(manifest.recipe)
    if expected is None or expected.settings_sha256.get(manifest.method, manifest.settings_sha256) != manifest.settings_sha256:
        return
    label = f"{group.label}, expected"
    primary = sum(row.primary and row.method == manifest.method for row in expected.rows)
    for row in expected.rows:
        if row.method in (manifest.method, START) and (row.task, row.metric) == (task, metric) and row.value is not None:
            values = values_of_runs(group, row.iteration or 0, task, metric)
            if values:
                alpha = expected.alpha / primary if row.primary else expected.alpha
                yield ExpectedPoint(label, float(row.iteration or 0), row.value, limits(row, values, alpha).mean, group.style)
                label = svg.NO_LEGEND


def _step_curves(groups: Sequence[Group], name: str, title: str) -> Plot | None:
    """Plot a metric of the optimizer steps: the mean over seeds, with the standard deviation as a band."""
    series, starts = [], []
    for group in groups:
        curves = [[step.values[name] for step in view.steps if _is_finite(step.values.get(name))] for view in group.runs]
        curves = [curve for curve in curves if curve]
        if not curves:
            continue
        mean, sd = _mean_and_sd(curves)
        x, y = svg.downsample(mean)
        error = svg.downsample(sd)[1] if sd is not None else None
        series.append(Series(group.label, x, y, error, group.style))
        starts = _iteration_starts(group.first)
    if not series:
        return None
    band = "; the band is the standard deviation over seeds" if any(each.error for each in series) else ""
    lines = "; grey lines mark the start of an iteration" if starts else ""
    caption = f"{DEFINITIONS[f'step-{name}']}{band}{lines}"
    return Plot(title, "optimizer step", name, series, caption, iteration_starts=starts)


def _mean_and_sd(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float] | None]:
    """Return mean and standard deviation over curves at each point that all of them have; no deviation for one curve."""
    length = min(map(len, curves))
    columns = list(zip(*(curve[:length] for curve in curves), strict=True))
    sd = [statistics.stdev(column) for column in columns] if len(curves) > 1 else None
    return [statistics.fmean(column) for column in columns], sd


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _iteration_starts(view: RunView) -> list[float]:
    """Return where a new iteration begins, in optimizer steps from the first."""
    iterations = [step.iteration for step in view.steps]
    return [place + 0.5 for place in range(1, len(iterations)) if iterations[place] != iterations[place - 1]]


def _log_ratio_to_start(groups: Sequence[Group]) -> Plot | None:
    """Plot the mean log-ratio of each iterate to the start, on the data's responses.

    A run records ρ relative to its reference. With the previous iterate as the reference, the iterations' ρ add up.
    """
    series = []
    for group in groups:
        for name, style in (("chosen", group.style), ("rejected", group.style + len(groups))):
            curves = [curve for view in group.runs if (curve := _log_ratios(view, f"rho_{name}"))]
            if curves:
                mean, sd = _mean_and_sd(curves)
                series.append(Series(f"{group.label}, {name}", range(len(mean)), mean, sd, style))
    if not series:
        return None
    caption = (
        "mean log π_t(y|x) − log π_0(y|x), in nats, of the data's chosen and rejected responses, averaged over the last epoch of "
        "each iteration: the policy moves during an epoch, so the finished iterate is a little further from the start"
    )
    return Plot("Log-ratio to the start", "iterate", "nats", series, caption, integer_x=True)


def _log_ratios(view: RunView, name: str) -> list[float]:
    """Return the mean log-ratio to the start by iterate, from 0; empty where an iteration has no finite value."""
    settings = view.settings
    epochs = max(1, int(settings.get("training", {}).get("epochs_per_iteration", 1)))
    own = settings.get("methods", {}).get(view.manifest.method) or {}
    previous_is_reference = own.get("reference_policy") == "previous"
    log_ratios = [0.0]
    for t in sorted({step.iteration for step in view.steps}):
        values = [step.values[name] for step in view.steps if step.iteration == t and _is_finite(step.values.get(name))]
        if not values:
            return []
        mean = statistics.fmean(values[-max(1, len(values) // epochs) :])
        log_ratios.append(mean + (log_ratios[-1] if previous_is_reference else 0.0))
    return log_ratios


def _response_lengths(groups: Sequence[Group]) -> Plot | None:
    """Plot the mean response length in tokens, of the data and of each iterate's self-play responses."""
    series = []
    data: dict[str, tuple[list[float], list[float]]] = {}
    for group in groups:
        x, y = [], []
        for iteration in group.first.folder.iterations():
            if not iteration.has_dataset:
                continue
            sampled_from, dataset = iteration.number - 1, iteration.read_dataset()
            for name in ("chosen", "rejected"):
                data_x, data_y = data.setdefault(name, ([], []))
                if sampled_from not in data_x:
                    data_x.append(sampled_from)
                    data_y.append(statistics.fmean(map(len, dataset[f"{name}_tokens"])))
            if "selfplay_tokens" in dataset:
                x.append(float(sampled_from))
                y.append(statistics.fmean(map(len, dataset["selfplay_tokens"])))
        if x:
            series.append(Series(f"{group.label}, self-play", x, y, None, group.style))
    for place, (name, (data_x, data_y)) in enumerate(data.items()):
        series.append(Series(f"data, {name}", data_x, data_y, None, len(groups) + place))
    if not series:
        return None
    caption = "mean response length; the self-play responses at t are those of iterate t, on which iteration t + 1 trains"
    return Plot("Response lengths", "iterate", "tokens", series, caption, integer_x=True)


def _expected_results(recipe: str) -> ExpectedResults | None:
    path = expected_path(recipe)
    return load_expected(path) if path.exists() else None
