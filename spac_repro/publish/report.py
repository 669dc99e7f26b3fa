"""One self-contained HTML page about one run or many: verdict first, then scores, curves, responses, provenance, how to repeat it.

Nothing in the page is fetched from anywhere, no script is in it, and all text of models, data and manifests is escaped.
"""

import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.publish import plots
from spac_repro.publish.plots import Plot, Series
from spac_repro.recipe import complete
from spac_repro.runs import files as runs
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import leaf_differences
from spac_repro.trust import first_difference
from spac_repro.trust.comparison import manifest
from spac_repro.trust.expected import START, Expected, expected_path, load_expected
from spac_repro.trust.verification import Verdict, tolerance, verify_runs

PROMPTS = 12
# The scores that sum up the others, each with what it is where its name does not say so.
TELLING = {
    ("gold", "reward"): "",
    ("average", "mean"): "",
    ("heldout", "divergence"): "KL(π_0 ‖ π_t) on held-out prompts, in nats: ",
}
LONGEST = 1200  # characters of a response that are shown
KEYS = {
    "spac": "SPAC: the critic's term and the preference term",
    "dpo": "DPO: the preference term alone",
    "ipo": "IPO: the preference margin held to 1/(2β)",
    "spin": "SPIN: the data against self-play",
    "sft": "more supervised steps on the chosen responses",
}


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run folder."""

    folder: Path
    manifest: dict[str, Any]
    complete: bool
    scores: dict[int, list[dict[str, Any]]]  # by iteration
    lines: list[dict[str, Any]]  # metrics of the iterations, the supervised start's left out
    weights_sha256: str | None

    @property
    def name(self) -> str:
        return f"{self.manifest['recipe']} · {self.manifest['method']} · seed {self.manifest['seed']}"


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: tuple[RunView, ...]
    style: int

    @property
    def first(self) -> RunView:
        return self.runs[0]


def write(folders: Sequence[Path], out: Path) -> int:
    """Write the page about these runs, or the runs below these folders, and return its size in bytes.

    Raises:
        UserError: no run, or a damaged one.
    """
    views = [_view(folder) for folder in _expanded(folders)]
    groups = _grouped(views)
    page = _page(views, groups)
    runs.write_bytes(out, page.encode())
    return len(page.encode())


# Reading


def _expanded(folders: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        below = [folder] if (folder / "manifest.json").exists() else sorted(file.parent for file in folder.rglob("manifest.json"))
        if not below:
            raise UserError(f"{folder}: no run folder, and none below it; name one that `spac-repro train` made")
        found += below
    return list(dict.fromkeys(found))


def _view(folder: Path) -> RunView:
    files = {int(file.parent.name.removeprefix("iteration-")): file for file in folder.glob("iteration-*/scores.json")}
    results = runs.read_json(folder / "results.json") if (folder / "results.json").exists() else {}
    return RunView(
        folder=folder,
        manifest=manifest(folder),
        complete=bool(results.get("complete")),
        scores={t: first_difference.scores_of(file) for t, file in sorted(files.items())},
        lines=[line for line in RunFolder(folder).metrics() if line["iteration"] > 0],
        weights_sha256=results.get("weights_sha256"),
    )


def _grouped(views: Sequence[RunView]) -> list[Group]:
    """The runs by recipe, method and settings; a group whose method has other settings elsewhere says which ones it has set."""
    digests: dict[tuple[str, str, str], list[RunView]] = {}
    for view in views:
        its = view.manifest
        digests.setdefault((its["recipe"], its["method"], str(its.get("settings_sha256"))), []).append(view)
    several = len({key[0] for key in digests}) > 1
    groups = []
    for place, ((recipe, method, _), members) in enumerate(digests.items()):
        twins = [others[0] for key, others in digests.items() if key[:2] == (recipe, method)]
        own = _own_settings(members[0], twins)
        label = (f"{recipe} " if several else "") + method + (f" ({own})" if own else "")
        groups.append(Group(label, tuple(sorted(members, key=lambda view: view.manifest["seed"])), place))
    return groups


def _own_settings(view: RunView, twins: Sequence[RunView], most: int = 2) -> str:
    """What sets a run apart from others of its method, short enough for a legend."""
    settings = [complete(twin.manifest["settings"]) for twin in twins]
    keys = dict.fromkeys(key for other in settings for key, _, _ in leaf_differences(settings[0], other))
    told = []
    for key in keys:
        value: Any = complete(view.manifest["settings"])
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        told.append(f"{key.rsplit('.', 1)[-1]} {_said(value)}"[:24])
    return ", ".join(told[:most]) + (", …" if len(told) > most else "")


def _set(view: RunView) -> list[str]:
    """The settings given on the command line, as key=value."""
    provenance = view.manifest.get("provenance") or {}
    return [str(source["why"]).removeprefix("--set ") for source in provenance.values() if source.get("mark") == "set"]


# The verdict


def _verdicts(views: Sequence[RunView]) -> Iterator[dict[str, Any]]:
    """One verdict a recipe; what cannot be held against anything says why."""
    for name in dict.fromkeys(view.manifest["recipe"] for view in views):
        its = [view for view in views if view.manifest["recipe"] == name]
        done = [view.folder for view in its if view.complete]
        try:
            verdict = verify_runs(done) if done else Verdict(name, "unverified", "no run of it is complete", 0.0)
        except UserError as error:
            verdict = Verdict(name, "unverified", str(error), 0.0)
        sign = {"verified": "✓", "disagrees": "✗", "unverified": "?"}[verdict.status]
        yield {"sign": sign, "unfinished": len(its) - len(done), **verdict.as_json()}


def _expected(recipe: str) -> Expected | None:
    path = expected_path(recipe)
    return load_expected(path) if path.exists() else None


# Scores


def _score_tables(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """For every group: a row a score, a column an iterate."""
    for group in groups:
        iterations = sorted({t for view in group.runs for t in view.scores})
        rows = []
        for task, metric in _score_names(group):
            cells = [_cell(group, t, task, metric) for t in iterations]
            known = next((score for t in iterations for score in group.first.scores.get(t, []) if _is(score, task, metric)), {})
            rows.append({"task": task, "metric": metric, "n": known.get("n"), "note": known.get("note", ""), "cells": cells})
        seeds = [str(view.manifest["seed"]) for view in group.runs]
        yield {
            "label": group.label,
            "seeds": seeds,
            "iterations": iterations,
            "rows": rows,
            "kind": KEYS.get(group.first.manifest["method"], ""),
        }


def _score_names(group: Group) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys((score["task"], score["metric"]) for view in group.runs for t in view.scores for score in view.scores[t])
    )


def _is(score: dict[str, Any], task: str, metric: str) -> bool:
    return bool(score["task"] == task and score["metric"] == metric)


def _values(group: Group, t: int, task: str, metric: str) -> tuple[list[float], float | None]:
    """One value a run, and the standard error that the first states."""
    found = [score for view in group.runs for score in view.scores.get(t, []) if _is(score, task, metric)]
    return [float(score["value"]) for score in found], found[0].get("stderr") if found else None


def _mean_and_error(group: Group, t: int, task: str, metric: str) -> tuple[float, float | None] | None:
    """The mean over seeds with their standard deviation; of one run its value with the harness's standard error."""
    values, stderr = _values(group, t, task, metric)
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else stderr


def _cell(group: Group, t: int, task: str, metric: str) -> str:
    found = _mean_and_error(group, t, task, metric)
    if found is None:
        return "–"
    return f"{found[0]:.3f}" + ("" if found[1] is None else f" ± {found[1]:.3f}")


# Figures


def _figures(groups: Sequence[Group]) -> Iterator[Plot]:
    yield from _score_plots(groups)
    for name, title, text in (
        ("loss", "Loss", "the training loss, averaged over the examples of a step"),
        ("accuracy", "Preference accuracy", "the share of preferences whose chosen response gained more than the rejected one"),
        ("margin", "Preference margin", "β(ρ(chosen) − ρ(rejected)), in nats"),
        (
            "critic_gap",
            "Critic term",
            "β(ρ(self-play) − mean ρ of the data): below zero, the policy moves from its own samples to the data",
        ),
    ):
        if plot := _curves(groups, name, title, text):
            yield plot
    if plot := _drift(groups):
        yield plot
    if plot := _lengths(groups):
        yield plot


def _score_plots(groups: Sequence[Group]) -> Iterator[Plot]:
    """The scores that sum up the others, and all of them where there are few."""
    names = list(dict.fromkeys(name for group in groups for name in _score_names(group)))
    telling = [name for name in names if name in TELLING] or names[:2]
    many = any(len(group.runs) > 1 for group in groups)
    for task, metric in telling:
        series: list[Series] = []
        marks: list[tuple[str, float, float, float, int]] = []
        for group in groups:
            points = [(t, *found) for t in sorted(group.first.scores) if (found := _mean_and_error(group, t, task, metric))]
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
    expected = _expected(its["recipe"])
    if expected is None or expected.settings_sha256.get(its["method"], its.get("settings_sha256")) != its.get("settings_sha256"):
        return
    label = f"{group.label}, expected"
    for row in expected.rows:
        if row.method in (its["method"], START) and (row.task, row.metric) == (task, metric) and row.value is not None:
            yield label, float(row.iteration or 0), row.value, tolerance(row, count, expected.alpha), group.style
            label = "_nolegend_"


def _curves(groups: Sequence[Group], name: str, title: str, text: str) -> Plot | None:
    series, bounds = [], []
    for group in groups:
        curves = [[line[name] for line in view.lines if _finite(line.get(name))] for view in group.runs]
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
    places = [line["iteration"] for line in view.lines]
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
    settings = view.manifest["settings"]
    epochs = max(1, int(settings.get("training", {}).get("epochs", 1)))
    track = [0.0]
    for t in sorted({line["iteration"] for line in view.lines}):
        values = [line[name] for line in view.lines if line["iteration"] == t and _finite(line.get(name))]
        if not values:
            return []
        mean = statistics.fmean(values[-max(1, len(values) // epochs) :])
        track.append(mean + (track[-1] if settings["objective"].get("reference") == "previous" else 0.0))
    return track


def _lengths(groups: Sequence[Group]) -> Plot | None:
    """Mean response length in tokens: the data's, and what each iterate says."""
    series = []
    data: dict[str, tuple[list[float], list[float]]] = {}
    for group in groups:
        x, y = [], []
        for t, table in _triples(group.first.folder):
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


def _triples(folder: Path) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    for file in sorted(folder.glob("iteration-*/selfplay.parquet")):
        yield int(file.parent.name.removeprefix("iteration-")), first_difference.read_columns(file)


# Responses


def _responses(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """A dozen prompts: chosen, rejected, and what the start and every iterate of each group's first run said."""
    tables = [dict(_triples(group.first.folder)) for group in groups]
    first = next((table[1] for table in tables if 1 in table), None)
    if first is None:
        return
    spoken = [_spoken(group.first, table) for group, table in zip(groups, tables, strict=True)]
    for row in range(min(PROMPTS, len(first["prompt"]))):
        said = [("chosen", first["chosen"][row]), ("rejected", first["rejected"][row])]
        for group, table, its in zip(groups, tables, spoken, strict=True):
            if 1 in table and table[1]["prompt"][row : row + 1] == [first["prompt"][row]]:
                for t, texts in its.items():
                    name = "start" if t == 0 else f"iterate {t}"
                    said += [(f"{group.label}, {name}" if len(groups) > 1 else name, texts[row])] if row < len(texts) else []
        yield {"prompt": _cut(first["prompt"][row]), "said": [(name, _cut(text)) for name, text in dict.fromkeys(said)]}


def _spoken(view: RunView, table: dict[int, dict[str, list[Any]]]) -> dict[int, list[str]]:
    """What each iterate said to the first prompts: samples kept for this, or else its self-play responses."""
    spoken: dict[int, list[str]] = {t - 1: columns["selfplay"] for t, columns in table.items() if "selfplay" in columns}
    for file in view.folder.glob("iteration-*/samples.json"):
        spoken[int(file.parent.name.removeprefix("iteration-"))] = list(map(str, runs.read_json(file)))
    return dict(sorted(spoken.items()))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


# Where it comes from, and how to repeat it


def _settings(view: RunView) -> Iterator[dict[str, str]]:
    """Every setting with its value, where it comes from, and why."""
    its = view.manifest
    provenance = its.get("provenance") or {}
    whole = complete(its["settings"])
    settings = {key: value for key, value in whole.items() if key not in ("method", "objective", "name")}
    settings[f"methods.{its['method']}"] = whole.get("objective") or {}
    for group, values in settings.items():
        if not isinstance(values, dict):
            yield _setting(group, values, provenance)
            continue
        for key in recipes.leaves(values):
            node: Any = values
            for part in key.split("."):
                node = node[part]
            yield _setting(f"{group}.{key}", node, provenance)


def _setting(key: str, value: Any, provenance: dict[str, Any]) -> dict[str, str]:
    source = provenance.get(key) or {}
    return {"key": key, "value": _said(value), "mark": str(source.get("mark", "")), "why": str(source.get("why", ""))}


def _facts(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in sorted(tree.items()):
        if isinstance(value, dict) and value:
            yield from _facts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _said(value)


def _said(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def command(view: RunView) -> str:
    """The command that made a run, as far as its manifest tells."""
    its = view.manifest
    words = ["spac-repro", "train", "--recipe", its["recipe"], "--method", its["method"], "--seed", str(its["seed"])]
    for setting in _set(view):
        words += ["--set", setting]
    if its["settings"].get("data", {}).get("source") == "file":
        words += ["--preferences", "FILE"]
    return shlex.join(words)


def _times(view: RunView) -> list[dict[str, Any]]:
    path = view.folder / "timing.json"
    return list(runs.read_json(path)) if path.exists() else []


# The page


def _page(views: Sequence[RunView], groups: Sequence[Group]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = (resources.files("spac_repro") / "publish" / "report.html.jinja").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    # An <svg> is matplotlib's own output, which escapes the labels; everything else is escaped by the template.
    figures = [replace(plot, svg=Markup(plots.svg(plot, number))) for number, plot in enumerate(_figures(groups))]
    first = views[0]
    return template.render(
        title=first.name
        if len(views) == 1
        else f"{len(views)} runs of {', '.join(dict.fromkeys(v.manifest['recipe'] for v in views))}",
        views=views,
        groups=groups,
        verdicts=list(_verdicts(views)),
        tables=list(_score_tables(groups)),
        figures=figures,
        responses=list(_responses(groups)),
        settings=[(group.label, list(_settings(group.first))) for group in groups],
        inputs=list(_facts(first.manifest["inputs"])),
        environment=list(_facts(first.manifest["environment"])),
        others=[view.name for view in views if _other_environment(view, first)],
        segments=[view.name for view in views if view.manifest.get("segments")],
        commands=[command(view) for view in views],
        times=_times(first),
        first=first,
    )


def _other_environment(view: RunView, first: RunView) -> bool:
    return any(True for _ in leaf_differences(view.manifest["environment"], first.manifest["environment"]))
