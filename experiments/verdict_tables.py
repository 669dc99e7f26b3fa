"""Tables of what `verify` says of recorded runs: of honest ones, of wrong ones, and of other methods passed off as one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import records

from spac_repro.runs.verdict import ScoreComparison, ScoreKey, Verdict
from spac_repro.trust.expected import START, expected_path, load_expected
from spac_repro.trust.run_scores import RunScores
from spac_repro.trust.verification import verify

UNBOUNDED = ("length", "margin", "critic_gap", "rho_chosen", "divergence")  # all other scores lie in [0, 1]


def verdict_of(recipe: str, method: str, runs: Sequence[RunScores]) -> Verdict:
    """What `verify` says of runs that claim to be of a method; their settings are not looked at."""
    fresh: dict[ScoreKey, list[float]] = {}
    starts: dict[ScoreKey, list[float]] = {}
    for run in runs:
        own = {(score.task, score.metric): score.value for score in run.scores[0]}
        for iteration, score in run.items():
            key = ScoreKey(START if iteration == 0 else method, score.task, score.metric, iteration)
            fresh.setdefault(key, []).append(score.value)
            starts.setdefault(key, []).append(own[score.task, score.metric])
    return verify(load_expected(expected_path(recipe)), fresh, starts=starts)


def verdicts(name: str, options: Mapping[str, str]) -> list[list[str]]:
    """Runs judged as those of a method, `as`: each alone, and all of a kind together.

    The rows are the groups and methods of the records, but for the method itself.
    """
    found, method = records.read(name), options["as"]
    recipe = found.about["recipe"]
    lines: list[list[str]] = []
    head = [f"judged as {method}", "runs", "each alone", "secondary rows that disagree, each alone", "all together"]
    for group in found.groups():
        for other, runs in found.runs(group).items():
            if not group and other == method:
                continue
            each, together = [verdict_of(recipe, method, [run]) for run in runs], verdict_of(recipe, method, runs)
            primary = [comparison for comparison in together.comparisons if comparison.primary]
            if not lines:
                lines.append([*head, *(f"{row.key.task} {row.key.metric}: found, expected ± tolerance" for row in primary)])
            label = f"{group} {other}".strip().replace("fault=", "")
            statuses = ", ".join(f"{count} {status}" for status, count in Counter(one.status for one in each).items())
            lines.append([label, str(len(runs)), statuses, _secondary(each), together.status, *map(_cell, primary)])
    return lines


def false_alarms(name: str, options: Mapping[str, str]) -> list[list[str]]:
    """Honest runs, which are in no expected result, each judged alone: every primary row, and how many runs fail.

    At the level α of the file, about a share α of the runs should fail.
    """
    found = records.read(name)
    numbers = ("expected", "tolerance", "smallest_detectable", "effect")
    head = ["method", "primary row", *(each.replace("_", " ") for each in numbers), "runs that disagree", "furthest, in tolerances"]
    lines = [[*head, "runs that fail", "secondary rows that disagree, each run"]]
    for method, runs in found.runs().items():
        verdicts = [verdict_of(found.about["recipe"], method, [run]) for run in runs]
        failed = sum(verdict.status == "disagrees" for verdict in verdicts)
        primary = [[row for row in verdict.comparisons if row.primary and row.key.method == method] for verdict in verdicts]
        last = [f"{failed} of {len(runs)}", _secondary(verdicts)]
        for row in zip(*primary, strict=True):
            furthest = max(abs(each.difference) / each.tolerance for each in row)
            disagree = sum(not each.agrees for each in row)
            values = ["" if (value := getattr(row[0], number)) is None else f"{value:.4f}" for number in numbers]
            counts = [f"{disagree} of {len(runs)}", f"{furthest:.2f}"]
            lines.append([method, f"{row[0].key.task} {row[0].key.metric}", *values, *counts, *last])
    return lines


def power(name: str, options: Mapping[str, str]) -> list[list[str]]:
    """What a single run of each method can fail: the tolerances of its primary rows, and how many secondary rows no value fails.

    No value in [0, 1] fails a row that agrees with 0 and with 1. So a run is judged whose bounded scores, after its start, are all
    0, and one in which they are all 1.
    """
    found = records.read(name)
    head = ["method", "secondary rows", "no value in [0, 1] fails"]
    lines: list[list[str]] = []
    for method, (run, *_) in found.runs().items():
        ends = [verdict_of(found.about["recipe"], method, [_with_bounded(run, value)]).comparisons for value in (0.0, 1.0)]
        rows = [pair for pair in zip(*ends, strict=True) if pair[0].key.method == method]
        primary = [low for low, _ in rows if low.primary]
        if not lines:
            lines.append([*head, *(f"{row.key.task} {row.key.metric}: tolerance, distance from the start" for row in primary)])
        bounded = [pair for pair in rows if not pair[0].primary and pair[0].key.metric not in UNBOUNDED]
        powerless = sum(low.agrees and high.agrees for low, high in bounded)
        reach = [f"{row.tolerance:.3f}, {row.effect:.3f}" for row in primary if row.effect is not None]
        lines.append([method, str(len(rows) - len(primary)), str(powerless), *reach])
    return lines


def _with_bounded(run: RunScores, value: float) -> RunScores:
    """A run whose later iterates have one value in every bounded score."""
    scores = {
        t: tuple(score if t == 0 or score.metric in UNBOUNDED else replace(score, value=value) for score in of_iterate)
        for t, of_iterate in run.scores.items()
    }
    return replace(run, scores=scores)


def _secondary(verdicts: Sequence[Verdict]) -> str:
    """How many secondary rows disagree with each run."""
    return " ".join(str(sum(not row.primary and not row.agrees for row in verdict.comparisons)) for verdict in verdicts)


def _cell(row: ScoreComparison) -> str:
    return f"{row.fresh:.3f}, {row.expected:.3f} ± {row.tolerance:.3f}"
