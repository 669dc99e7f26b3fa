"""Fresh scores against expected_results: does a run say the same as the runs, or the paper, before it?

The numbers of a row (statistics.py) decide whether the mean of the fresh runs agrees with it. A row that is *not transcribed*
verifies nothing.

The primary rows decide; the start's alone verify no method. Their family-wise level is the file's `alpha`, divided evenly
among the primary rows that apply (Bonferroni; whether any of them fails is decided exactly as by Holm's procedure). The other
rows are judged at `alpha` each and reported only. A deviation in either direction fails, and so does a number that is not
finite, in any row. A primary row of a method that was run but not measured leaves the method unverified.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from spac_repro.errors import UserError
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.results import Score
from spac_repro.runs.verdict import RowComparison, ScoreKey, Status, Verdict
from spac_repro.trust.evidence import Evidence, IncomparableError, read_run
from spac_repro.trust.expected import START, Expected, Fresh, Measured, Row, expected_path, load_expected
from spac_repro.trust.statistics import smallest_detectable, tolerance


def verify(expected: Expected, fresh: Fresh, *, partial: bool = False, notes: Sequence[str] = ()) -> Verdict:
    """Hold fresh values, one a run, against the expected rows.

    `partial`: `fresh` is known to be a part of what its methods are measured by; primary rows beyond it are then not missed.
    """
    comparable, inapplicable = [], []
    for row in expected.rows:
        if row.value is None:
            inapplicable.append((row.key, "not transcribed: verifies nothing"))
        elif not fresh.get(row.key):
            inapplicable.append((row.key, "no fresh value"))
        else:
            comparable.append(row)

    family = sum(row.primary and row.tolerance is None for row in comparable)
    starts = {(row.task, row.metric): row.value for row in expected.rows if row.method == START}
    comparisons = []
    for row in comparable:
        assert row.value is not None
        values = fresh[row.key]
        alpha = expected.alpha / family if row.primary and family else expected.alpha
        start = starts.get((row.task, row.metric))
        comparisons.append(
            RowComparison(
                key=row.key,
                primary=row.primary,
                kind=expected.kind(row),
                expected=row.value,
                fresh=sum(values) / len(values),
                runs=len(values),
                tolerance=tolerance(row, len(values), alpha),
                smallest_detectable=smallest_detectable(row, len(values), alpha),
                effect=row.effect if row.effect or start is None or row.method == START else abs(row.value - start),
                note=row.note,
            )
        )
    known = {row.key for row in expected.rows}
    without_row = tuple(key for key in fresh if key not in known)
    run = {key.method for key, values in fresh.items() if values}
    missed = [
        row.key for row in expected.rows if row.primary and row.method in run and row not in comparable and row.value is not None
    ]
    status, reason = _decide(expected, comparisons, fresh, [] if partial else missed)
    return Verdict(
        expected.recipe, status, reason, expected.alpha, tuple(comparisons), tuple(inapplicable), without_row, tuple(notes)
    )


def _decide(
    expected: Expected, comparisons: Sequence[RowComparison], fresh: Fresh, missed: Sequence[ScoreKey]
) -> tuple[Status, str]:
    primary = [comparison for comparison in comparisons if comparison.primary]
    failed = [c for c in comparisons if (c.primary and not c.agrees) or not math.isfinite(c.fresh)]
    if failed:
        return "disagrees", f"{listed(c.key for c in failed)}: outside the tolerance, or not a finite number"
    trained = dict.fromkeys(key.method for key in fresh if key.method != START)
    if not comparisons or (trained and not any(c.key.method in trained for c in primary)):
        if primary:
            rest = "; the start agrees"
        else:
            rest = f"; {len(comparisons)} secondary rows apply and decide nothing" if comparisons else ""
        untranscribed = any(row.value is None and row.method in trained for row in expected.rows)
        why = " (its rows are not transcribed and verify nothing)" if untranscribed else ""
        return "unverified", f"no primary row for {listed(trained) or 'what was run'}{why}{rest}"
    if not primary:
        return "unverified", f"{len(comparisons)} secondary rows apply, and no primary row that could decide"
    if missed:
        return "unverified", f"no fresh value for the primary rows {listed(missed)}"
    if all(comparison.underpowered for comparison in primary):
        return "unverified", "no primary row could have seen a deviation as small as the effect that it is about"
    return "verified", f"{len(primary)} of {len(primary)} primary rows agree at family-wise level {expected.alpha:g}"


# From the evidence to a verdict


def verify_runs(run_folders: Sequence[Path | str], expected: Path | str | None = None) -> Verdict:
    """Hold the runs in these folders, all of one recipe, against `expected` (default: what the package has for the recipe).

    A run whose settings have no row, and a recipe without a file, are unverified.

    Raises IncomparableError for an unfinished run, a run of another recipe, a run given twice, and other task or harness
    versions than the rows'; UserError for files that cannot be read.
    """
    if not run_folders:
        raise UserError("no run to verify; name at least one run folder")
    return _verify_evidence([read_run(folder) for folder in run_folders], expected)


def conclude(folder: Path) -> Verdict:
    """The verdict on one finished run, also left in its folder. What cannot be compared is unverified, and says why."""
    run = RunFolder.open(folder)
    try:
        verdict = verify_runs([folder])
    except IncomparableError as error:
        verdict = Verdict(run.results.recipe, "unverified", str(error).removeprefix(f"{folder}: "), 0.0)
    run.write_verdict(verdict)
    return verdict


def verify_scores(scores: Evidence, expected: Path | str | None = None) -> Verdict:
    """Hold the scores of a file, said to be of some recipe, method and iteration, against `expected`.

    Raises the errors of verify_runs.
    """
    note = "a scores file does not say which settings and weights it is about"
    return _verify_evidence([scores], expected, note, partial=True)


def _verify_evidence(runs: Sequence[Evidence], path: Path | str | None, *notes: str, partial: bool = False) -> Verdict:
    recipe = runs[0].recipe
    _check_one_family(runs)
    if path is None and not expected_path(recipe).exists():
        return Verdict(recipe, "unverified", f"the recipe {recipe} has no expected results; name a file of them", alpha=0.0)
    path = path or expected_path(recipe)
    expected = load_expected(path)
    if expected.recipe != recipe:
        raise IncomparableError(f"{path}: is about the recipe {expected.recipe}, and {runs[0].place} about {recipe}")
    if strange := [reason for run in runs if (reason := _other_settings(run, expected))]:
        inapplicable = tuple((row.key, "other settings") for row in expected.rows)
        return Verdict(recipe, "unverified", listed(strange), expected.alpha, inapplicable=inapplicable, notes=notes)
    fresh, left_out = _fresh(runs, expected)
    return verify(expected, fresh, partial=partial, notes=(*notes, *left_out, *_doubts(runs, expected, fresh)))


def _check_one_family(runs: Sequence[Evidence]) -> None:
    first, seen = runs[0], dict[tuple[str, int | None], str]()
    for run in runs:
        if run.recipe != first.recipe:
            raise IncomparableError(
                f"{run.place}: is of the recipe {run.recipe}, and {first.place} of {first.recipe}; verify each recipe alone"
            )
        if twin := seen.get((run.method, run.seed)):
            raise IncomparableError(f"{run.place}: {run.method} with seed {run.seed}, as {twin} is; name one of them")
        seen[run.method, run.seed] = run.place


def _other_settings(run: Evidence, expected: Expected) -> str | None:
    """Why the rows of the run's method are not about this run, or None."""
    digest = expected.settings_sha256.get(run.method)
    if digest is None or run.settings_sha256 is None or run.settings_sha256 == digest:
        return None
    changed = listed(run.changed_settings()) or f"digest {run.settings_sha256[:12]} (rows: {digest[:12]})"
    return f"{run.name}: no row for the setting {changed}"


def _fresh(runs: Sequence[Evidence], expected: Expected) -> tuple[dict[ScoreKey, list[float]], list[str]]:
    """One value a run and key, and what was left out. Iteration 0 belongs to no method, and counts once for each seed."""
    rows = {row.key: row for row in expected.rows}
    fresh: dict[ScoreKey, list[float]] = {}
    left_out = []
    seen: set[tuple[ScoreKey, int | None]] = set()
    for run in runs:
        for iteration, score in run.each():
            key = ScoreKey(START if iteration == 0 else run.method, score.task, score.metric, iteration)
            if (key, run.seed) in seen:
                continue
            seen.add((key, run.seed))
            values, row = fresh.setdefault(key, []), rows.get(key)
            if row is not None:
                _check_comparable(run, score, row, expected)
            if row is None or row.n is None or score.n in (0, row.n):  # 0: the file does not tell, and is believed
                values.append(score.value)
            else:
                left_out.append(f"{run.name}: {key} on {score.n} questions is not compared with the row on {row.n}")
    return fresh, left_out


def _check_comparable(run: Evidence, score: Score, row: Row, expected: Expected) -> None:
    """Raise IncomparableError where the row was measured by another version of the task or harness."""
    source = expected.sources[row.source]
    if row.version is not None and score.version != row.version:
        raise IncomparableError(
            f"{run.place}: {score.task} has version {score.version or 'unknown'}, and the row {row.key} has {row.version}; "
            "evaluate again with the harness of the rows"
        )
    if isinstance(source, Measured) and source.harness and score.version and run.harness and run.harness != source.harness:
        raise IncomparableError(
            f"{run.place}: was evaluated by {run.harness}, and the row {row.key} by {source.harness}; evaluate again with that"
        )


def _doubts(runs: Sequence[Evidence], expected: Expected, fresh: Fresh) -> list[str]:
    """What a reader of the verdict should know about the runs."""
    seeds = {seed for source in expected.sources.values() if isinstance(source, Measured) for seed in source.seeds}
    doubts = [
        f"{run.name}: its seed is among the rows' own seeds, so agreement says less than the level promises"
        for run in runs
        if run.seed in seeds
    ]
    for key, values in fresh.items():
        of_method = sum(run.method == key.method for run in runs)
        if 0 < len(values) < of_method:
            doubts.append(f"{key}: measured in {len(values)} of {of_method} runs only")
    for index, run in enumerate(runs):
        for other in runs[:index]:
            if run.weights_sha256 and run.weights_sha256 == other.weights_sha256:
                doubts.append(f"{run.name} and {other.name} have the same weights, so they are one run rather than two")
    return doubts


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first names with commas between, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
