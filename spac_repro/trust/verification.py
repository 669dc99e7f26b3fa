"""Verification: do the scores of fresh runs agree with the expected results?

Each row has tolerances (`statistics.py`) that the mean of the fresh runs, each of them and their spread must keep. A row that is
*not transcribed* verifies nothing.

The primary rows decide, those of a method and not those of the start policy alone. The family-wise level `alpha` of the file is
divided evenly among the primary rows that apply (Bonferroni; Holm's procedure finds a failure in exactly the same cases), and the
level of a row among its three tests. The other rows are only reported; they are a second family at the same level, divided in the
same way (docs/decisions/17-secondary-rows.md). A deviation in either direction fails, and so does a value that is not finite, in
any row. A method is unverified if one of its primary rows was not measured.

What `alpha` promises, and what it does not, is in docs/decisions/14-levels.md.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from spac_repro import protocols
from spac_repro.errors import UserError
from spac_repro.runs import file_hashes, files
from spac_repro.runs.results import Score
from spac_repro.runs.verdict import ExpectedResultsFile, ScoreComparison, ScoreKey, SeveralRuns, Status, Verdict
from spac_repro.trust.expected import (
    START,
    ExpectedResults,
    ExpectedRow,
    FreshValues,
    Measured,
    Published,
    expected_path,
    load_expected,
)
from spac_repro.trust.judged_values import JudgedValues, judged_values
from spac_repro.trust.run_scores import IncomparableError, RunScores, read_run_scores
from spac_repro.trust.statistics import limits, smallest_detectable, standard_deviation


def verify(
    expected: ExpectedResults,
    fresh: FreshValues,
    *,
    starts: FreshValues | None = None,
    partial: bool = False,
    notes: Sequence[str] = (),
) -> Verdict:
    """Compare fresh values with the expected rows.

    Args:
        expected: the expected results.
        fresh: for each score, one value a run.
        starts: for a score of a row with a gain, the same score of each run's own start, in the order of `fresh`.
        partial: `fresh` holds only a part of the scores of its methods, so that missing primary rows are no fault.
        notes: lines to be added to the verdict.
    """
    comparable, inapplicable = [], []
    for row in expected.rows:
        if row.value is None:
            inapplicable.append((row.key, "not transcribed: verifies nothing"))
        elif not fresh.get(row.key):
            inapplicable.append((row.key, "no fresh value"))
        else:
            comparable.append(row)
    comparisons = _compare_rows(expected, comparable, fresh, starts or {})
    known = {row.key for row in expected.rows}
    without_row = tuple(key for key in fresh if key not in known)
    methods = {key.method for key, values in fresh.items() if values}
    missing = [
        row.key
        for row in expected.rows
        if row.primary and row.method in methods and row not in comparable and row.value is not None
    ]
    status, reason = _decide(expected, comparisons, fresh, [] if partial else missing)
    return Verdict(
        expected.recipe, status, reason, expected.alpha, tuple(comparisons), tuple(inapplicable), without_row, tuple(notes)
    )


def _compare_rows(
    expected: ExpectedResults, rows: Sequence[ExpectedRow], fresh: FreshValues, starts: FreshValues
) -> list[ScoreComparison]:
    """Compare each row with its fresh values; primary and secondary rows are a family each."""
    families = Counter(row.primary for row in rows if row.tolerance is None)
    start_values = {(row.task, row.metric): row.value for row in expected.rows if row.method == START}
    comparisons = []
    for row in rows:
        alpha = expected.alpha / max(1, families[row.primary])
        start_value = start_values.get((row.task, row.metric))
        judged = judged_values(row, fresh[row.key], starts.get(row.key))
        comparisons.append(_compare_row(row, fresh[row.key], judged, alpha, expected.source_kind(row), start_value))
    return comparisons


def _compare_row(
    row: ExpectedRow, values: Sequence[float], judged: JudgedValues, alpha: float, kind: str, start: float | None
) -> ScoreComparison:
    """Compare a row with fresh values at a level; `start` is the start policy's expected value of the score."""
    expected, centre = row.value, judged.row.value
    assert expected is not None
    assert centre is not None
    allowed = limits(judged.row, judged.values, alpha)
    several = None
    if allowed.run is not None:
        distances = [value - centre for value in judged.values]
        furthest = max(distances, key=lambda distance: abs(distance) if math.isfinite(distance) else math.inf)
        spread = standard_deviation(judged.values)
        several = SeveralRuns(judged.expected + furthest, allowed.run, spread, allowed.spread)
    return ScoreComparison(
        key=row.key,
        primary=row.primary,
        kind=kind,
        expected=judged.expected,
        fresh=sum(values) / len(values),
        runs=len(values),
        tolerance=allowed.mean,
        smallest_detectable=smallest_detectable(judged.row, len(values), alpha),
        effect=row.effect if row.effect or start is None or row.method == START else abs(expected - start),
        note="; ".join(filter(None, (row.note, judged.note))),
        several=several,
    )


def _decide(
    expected: ExpectedResults, comparisons: Sequence[ScoreComparison], fresh: FreshValues, missing: Sequence[ScoreKey]
) -> tuple[Status, str]:
    primary = [row for row in comparisons if row.primary]
    failed = [row for row in comparisons if (row.primary and not row.agrees) or not math.isfinite(row.fresh)]
    if failed:
        names = join_names(f"{row.key} ({' and '.join(row.faults)})" for row in failed)
        return "disagrees", f"{names}: outside the tolerance, or not a finite number"
    trained = list(dict.fromkeys(key.method for key in fresh if key.method != START))
    if not comparisons or (trained and not any(row.key.method in trained for row in primary)):
        return "unverified", _without_primary_rows(expected, comparisons, trained)
    if not primary:
        return "unverified", f"{len(comparisons)} secondary rows apply, and no primary row that could decide"
    if missing:
        return "unverified", f"no fresh value for the primary rows {join_names(missing)}"
    if all(row.underpowered for row in primary if not trained or row.key.method in trained):
        rest = "; the start agrees" if trained and any(row.key.method == START for row in primary) else ""
        return "unverified", f"no primary row could have found a deviation as small as the effect that it is about{rest}"
    return "verified", f"{len(primary)} of {len(primary)} primary rows agree at family-wise level {expected.alpha:g}"


def _without_primary_rows(expected: ExpectedResults, comparisons: Sequence[ScoreComparison], trained: Sequence[str]) -> str:
    """The reason for a verdict without any primary row of the trained methods."""
    if any(row.primary for row in comparisons):
        rest = "; the start agrees"
    else:
        rest = f"; {len(comparisons)} secondary rows apply and decide nothing" if comparisons else ""
    untranscribed = any(row.value is None and row.method in trained for row in expected.rows)
    why = " (its rows are not transcribed and verify nothing)" if untranscribed else ""
    return f"no primary row for {join_names(trained) or 'what was run'}{why}{rest}"


# From run folders and results files to a verdict


def verify_runs(run_folders: Sequence[Path | str], expected: Path | str | None = None, *, deep: bool = False) -> Verdict:
    """Verify runs of one recipe. A run whose settings have no row, and a recipe without a file, are unverified.

    Args:
        run_folders: the folders of finished runs; or results files alone, of which no other file can be checked.
        expected: an expected_results file; by default the package's for the recipe.
        deep: check large files of the runs too.

    Raises:
        IncomparableError: an unfinished run, a run of another recipe, a run given twice, or other task or harness versions than the
            rows'.
        UserError: a file cannot be read.
    """
    if not run_folders:
        raise UserError("no run to verify; name at least one run folder")
    return _verify([read_run_scores(folder, deep=deep) for folder in run_folders], expected)


def verify_and_record(folder: Path) -> Verdict:
    """Verify one run and write the verdict into its folder. A run that cannot be compared is unverified, with the reason."""
    run = file_hashes.open_checked(folder)
    try:
        verdict = verify_runs([folder])
    except IncomparableError as error:
        verdict = Verdict(run.results.recipe, "unverified", str(error).removeprefix(f"{folder}: "), 0.0)
    run.write_verdict(replace(verdict, files=()))  # what could be checked changes when iterates are removed
    return verdict


def verify_scores(scores: RunScores, expected: Path | str | None = None) -> Verdict:
    """Verify the scores of a results file, for the recipe, method and iteration that its reader was given.

    Raises:
        IncomparableError: another recipe, or other task or harness versions than the rows'.
        UserError: a file cannot be read.
    """
    note = "a scores file does not say which settings and weights it is about"
    return _verify([scores], expected, note, partial=True)


def _verify(runs: Sequence[RunScores], path: Path | str | None, *notes: str, partial: bool = False) -> Verdict:
    """Verify runs, and say in the verdict which of their files were checked and which file of expected results was read."""
    recipe = runs[0].recipe
    checked = tuple(f"{run.name}: {run.files}" for run in runs if run.files)
    _check_one_recipe(runs)
    if path is None and not expected_path(recipe).exists():
        reason = f"the recipe {recipe} has no expected results; name a file of them"
        return Verdict(recipe, "unverified", reason, alpha=0.0, files=checked)
    name = str(path or f"expected_results/{recipe}.yaml")  # the package's own place differs between machines
    path = Path(path or expected_path(recipe))
    verdict = _verify_against(runs, path, *notes, partial=partial)
    return replace(verdict, files=checked, expected_file=ExpectedResultsFile(name, files.sha256_file(path)))


def _verify_against(runs: Sequence[RunScores], path: Path, *notes: str, partial: bool) -> Verdict:
    recipe = runs[0].recipe
    expected = load_expected(path)
    if expected.recipe != recipe:
        raise IncomparableError(f"{path}: is about the recipe {expected.recipe}, and {runs[0].source} about {recipe}")
    if reasons := [reason for run in runs if (reason := _other_settings(run, expected))]:
        inapplicable = tuple((row.key, "other settings") for row in expected.rows)
        return Verdict(recipe, "unverified", join_names(reasons), expected.alpha, inapplicable=inapplicable, notes=notes)
    fresh, starts, left_out = _fresh_values(runs, expected)
    return verify(expected, fresh, starts=starts, partial=partial, notes=(*notes, *left_out, *_caveats(runs, expected, fresh)))


def _check_one_recipe(runs: Sequence[RunScores]) -> None:
    """Raise IncomparableError for runs of several recipes, and for two runs of one method and seed."""
    first, seen = runs[0], dict[tuple[str, int | None], str]()
    for run in runs:
        if run.recipe != first.recipe:
            raise IncomparableError(
                f"{run.source}: is of the recipe {run.recipe}, and {first.source} of {first.recipe}; verify each recipe alone"
            )
        if twin := seen.get((run.method, run.seed)):
            raise IncomparableError(f"{run.source}: {run.method} with seed {run.seed}, as {twin} is; name one of them")
        seen[run.method, run.seed] = run.source


def _other_settings(run: RunScores, expected: ExpectedResults) -> str | None:
    """The reason why the rows of the run's method do not apply to its settings; None if they do."""
    digest = expected.settings_sha256.get(run.method)
    if digest is None or run.settings_sha256 is None or run.settings_sha256 == digest:
        return None
    changed = join_names(run.changed_settings()) or f"digest {run.settings_sha256[:12]} (rows: {digest[:12]})"
    return f"{run.name}: no row for the setting {changed}"


def _fresh_values(
    runs: Sequence[RunScores], expected: ExpectedResults
) -> tuple[dict[ScoreKey, list[float]], dict[ScoreKey, list[float]], list[str]]:
    """One value a run for each score, that of its own start where the row has a gain, and notes about scores that were left out.

    Iteration 0 is the same for all methods of a seed, so it counts once for each seed.
    """
    rows = {row.key: row for row in expected.rows}
    fresh: dict[ScoreKey, list[float]] = {}
    starts: dict[ScoreKey, list[float]] = {}
    left_out = []
    seen: set[tuple[ScoreKey, int | None]] = set()
    for run in runs:
        own_start = {(score.task, score.metric): score for score in run.scores.get(0, ())}
        for iteration, score in run.items():
            key = ScoreKey(START if iteration == 0 else run.method, score.task, score.metric, iteration)
            if (key, run.seed) in seen:
                continue
            seen.add((key, run.seed))
            values, row = fresh.setdefault(key, []), rows.get(key)
            if row is not None:
                _check_versions(run, score, row, expected)
            if row is not None and (other := _other_protocol(run, score, row, expected)):
                left_out.append(f"{run.name}: {key} {other}")
                if isinstance(expected.sources[row.source], Measured):
                    continue
            if row is None or row.n is None or score.n == row.n:
                values.append(score.value)
                if row is not None and row.gain is not None and (start := own_start.get((score.task, score.metric))):
                    starts.setdefault(key, []).append(start.value)
            else:
                asked = f"{score.n}" if score.n else "an unknown number of"  # 0: the file does not say how many
                left_out.append(f"{run.name}: {key} on {asked} questions is not compared with the row on {row.n}")
    known = {key: values for key, values in starts.items() if len(values) == len(fresh[key])}
    return fresh, known, left_out


def _other_protocol(run: RunScores, score: Score, row: ExpectedRow, expected: ExpectedResults) -> str:
    """What to say where a leaderboard score was measured under another protocol than its row; empty where it was not.

    A measured row then judges nothing. A published row does: what groups differ by, its tolerance, holds their protocols too.
    """
    source = expected.sources[row.source]
    theirs = source.protocol if isinstance(source, Measured | Published) else None
    if not theirs or theirs == run.protocol or not score.of_leaderboard:
        return ""
    how = "is not compared with" if isinstance(source, Measured) else "is held against"
    return f"under protocol {run.protocol} {how} the row under {theirs}"


def _check_versions(run: RunScores, score: Score, row: ExpectedRow, expected: ExpectedResults) -> None:
    """Raise IncomparableError if the row was measured with another version of the task or harness."""
    source = expected.sources[row.source]
    if run.protocol != protocols.CURRENT:
        return  # it fixes the version of every task
    if row.version is not None and score.version != row.version:
        raise IncomparableError(
            f"{run.source}: {score.task} has version {score.version or 'unknown'}, and the row {row.key} has {row.version}; "
            "evaluate again with the harness of the rows"
        )
    if isinstance(source, Measured) and source.harness and score.version and run.harness != source.harness:
        theirs = run.harness or "an unknown harness"
        raise IncomparableError(
            f"{run.source}: was evaluated by {theirs}, and the row {row.key} by {source.harness}; evaluate again with that"
        )


def _caveats(runs: Sequence[RunScores], expected: ExpectedResults, fresh: FreshValues) -> list[str]:
    """What weakens the verdict: seeds of the rows themselves, scores of some runs only, runs with equal weights."""
    seeds = {seed for source in expected.sources.values() if isinstance(source, Measured) for seed in source.seeds}
    caveats = [
        f"{run.name}: its seed is among the rows' own seeds, so agreement says less than the level promises"
        for run in runs
        if run.seed in seeds
    ]
    for key, values in fresh.items():
        of_method = sum(run.method == key.method for run in runs)
        if 0 < len(values) < of_method:
            caveats.append(f"{key}: measured in {len(values)} of {of_method} runs only")
    for index, run in enumerate(runs):
        for other in runs[:index]:
            if run.weights_sha256 and run.weights_sha256 == other.weights_sha256:
                caveats.append(f"{run.name} and {other.name} have the same weights, so they count as one run, not two")
    return caveats


def join_names(names: Iterable[object], most: int = 3) -> str:
    """The first `most` names, separated by commas, and the number of the others."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
