"""Fresh scores against expected_results: does a run say the same as the runs, or the paper, before it?

A row (method, iteration, task, metric, value) that was *measured* on K seeds with standard deviation s is compared with the
mean of k fresh runs by a t prediction interval

    |fresh - expected| <= t(K - 1, 1 - a/2) * s * sqrt(1/k + 1/K)

which runs of the same program leave with probability a, whatever their true spread is. The same questions are asked on both
sides, so the harness's standard error does not enter. A *published* row stands for one run (K = 1) and has no spread of its
own: it is borrowed, with its degrees of freedom, or a tolerance is argued. A row that is *not transcribed* verifies nothing.

The primary rows decide; the start's alone verify no method. Their family-wise level is the file's `alpha`, divided evenly
among the primary rows that apply (Bonferroni; whether any of them fails is decided exactly as by Holm's procedure). The other
rows are judged at `alpha` each and reported only. A deviation in either direction fails, and so does a number that is not
finite, in any row. A primary row of a method that was run but not measured leaves the method unverified.

The smallest detectable deviation of a row is the true deviation that the check would find in 80 % of repetitions. With s
estimated from K runs the test statistic then follows a noncentral t distribution with K - 1 degrees of freedom; its
noncentrality is solved for, and sigma in deviation = noncentrality * sigma * sqrt(1/k + 1/K) is taken to be s.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spac_repro.errors import UserError
from spac_repro.runs.files import write_json
from spac_repro.runs.results import Score
from spac_repro.trust.evidence import Evidence, IncomparableError, read_run, read_scores
from spac_repro.trust.expected import START, Expected, Fresh, Key, Measured, Row, expected_path, load_expected

if TYPE_CHECKING:
    from rich.console import RenderableType

POWER = 0.8
ROUNDING = 1e-9  # relative; what two machines may differ by where a row has no spread at all


# The statistics


def _spread(row: Row) -> tuple[float, int, float] | None:
    """Standard deviation of one run, its degrees of freedom, and 1/K; None where the tolerance is argued."""
    if row.borrowed is not None:
        return row.borrowed.sd, row.borrowed.degrees_of_freedom, 1.0
    if row.sd is not None and row.seeds is not None:
        return row.sd, row.seeds - 1, 1 / row.seeds
    return None


def tolerance(row: Row, runs: int, alpha: float) -> float:
    """How far the mean of `runs` fresh runs may be from the row's value at level alpha, in the metric's unit."""
    shift = row.harness_shift.value if row.harness_shift else 0.0
    if row.tolerance is not None:
        return row.tolerance.value + shift
    spread = _spread(row)
    assert spread is not None
    sd, freedom, share = spread
    return max(_quantile(freedom, alpha) * sd * math.sqrt(1 / runs + share), _rounding(row)) + shift


def smallest_detectable(row: Row, runs: int, alpha: float) -> float | None:
    """The true deviation that is found with probability 0.8; None where it is unknown, the tolerance having been argued."""
    spread = _spread(row)
    if spread is None:
        return None
    sd, freedom, share = spread
    scale = sd * math.sqrt(1 / runs + share)
    shift = row.harness_shift.value if row.harness_shift else 0.0
    # The second form matters only where the rounding is wider than the interval: a normal deviate must then pass it.
    return max(_noncentrality(freedom, alpha) * scale, _rounding(row) + _normal_quantile(POWER) * scale) + shift


def _rounding(row: Row) -> float:
    assert row.value is not None
    return row.rounding if row.rounding is not None else ROUNDING * max(1.0, abs(row.value))


@lru_cache
def _quantile(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit  # scipy.stats is the same function and a second more to import

    return float(stdtrit(freedom, 1 - alpha / 2))


@lru_cache
def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


@lru_cache
def _noncentrality(freedom: int, alpha: float) -> float:
    """The noncentrality at which a two-sided t test of level alpha rejects with probability POWER.

    A noncentral t variable is (Z + noncentrality) / S with S² a chi-square over its degrees of freedom; the probability is
    averaged over a fine grid of S, because scipy's own distribution gives NaN far in its tails.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr

    critical = _quantile(freedom, alpha)
    chi_squares = 2 * gammaincinv(freedom / 2, (np.arange(4000) + 0.5) / 4000)
    bounds = critical * np.sqrt(chi_squares / freedom)

    def lacking(noncentrality: float) -> float:
        return float(np.mean(ndtr(noncentrality - bounds) + ndtr(-noncentrality - bounds))) - POWER

    return float(brentq(lacking, 0.0, 10 + 10 * critical, xtol=1e-9))


# The verdict


@dataclass(frozen=True)
class Comparison:
    """One row beside the fresh runs, all in the metric's unit. `fresh` is the mean of `runs` values."""

    key: Key
    primary: bool
    kind: str
    expected: float
    fresh: float
    runs: int
    tolerance: float
    detectable: float | None
    effect: float | None
    note: str = ""

    @property
    def difference(self) -> float:
        return self.fresh - self.expected

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= self.tolerance  # false for a difference that is not finite

    @property
    def powerless(self) -> bool:
        """Could not have told the expected value from one that is `effect` away; False where no effect is known."""
        return self.effect is not None and max(self.detectable or 0.0, self.tolerance) > self.effect

    @property
    def word(self) -> str:
        return ("agrees" if self.agrees else "disagrees") + (" (without power)" if self.powerless else "")

    def as_json(self) -> dict[str, Any]:
        numbers = {
            "expected": self.expected,
            "fresh": self.fresh,
            "runs": self.runs,
            "difference": self.difference,
            "tolerance": self.tolerance,
            "smallest_detectable": self.detectable,
            "effect": self.effect,
        }
        return {
            **self.key._asdict(),
            "primary": self.primary,
            "source": self.kind,
            **{name: value if value is None or math.isfinite(value) else str(value) for name, value in numbers.items()},
            "verdict": "agrees" if self.agrees else "disagrees",
            "without_power": self.powerless,
            "note": self.note,
        }


@dataclass(frozen=True)
class Verdict:
    """What verification said.

    `inapplicable` are the rows that were not compared, and why; `without_row` are the fresh numbers that no row is about.
    """

    recipe: str
    status: Literal["verified", "disagrees", "unverified"]
    reason: str
    alpha: float
    comparisons: tuple[Comparison, ...] = ()
    inapplicable: tuple[tuple[Key, str], ...] = ()
    without_row: tuple[Key, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 verified, 1 disagrees, 2 nothing to hold the numbers against."""
        return {"verified": 0, "disagrees": 1, "unverified": 2}[self.status]

    def as_json(self) -> dict[str, Any]:
        """Plain values, valid JSON: a number that is not finite is written as text."""
        return {
            "recipe": self.recipe,
            "status": self.status,
            "reason": self.reason,
            "alpha": self.alpha,
            "rows": [comparison.as_json() for comparison in self.comparisons],
            "inapplicable": [{**key._asdict(), "reason": reason} for key, reason in self.inapplicable],
            "without_row": [key._asdict() for key in self.without_row],
            "notes": list(self.notes),
        }


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
            Comparison(
                key=row.key,
                primary=row.primary,
                kind=expected.kind(row),
                expected=row.value,
                fresh=sum(values) / len(values),
                runs=len(values),
                tolerance=tolerance(row, len(values), alpha),
                detectable=smallest_detectable(row, len(values), alpha),
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
    expected: Expected, comparisons: Sequence[Comparison], fresh: Fresh, missed: Sequence[Key]
) -> tuple[Literal["verified", "disagrees", "unverified"], str]:
    primary = [comparison for comparison in comparisons if comparison.primary]
    failed = [c for c in comparisons if (c.primary and not c.agrees) or not math.isfinite(c.fresh)]
    if failed:
        return "disagrees", f"{_listed(c.key for c in failed)}: outside the tolerance, or not a finite number"
    trained = dict.fromkeys(key.method for key in fresh if key.method != START)
    if not comparisons or (trained and not any(c.key.method in trained for c in primary)):
        if primary:
            rest = "; the start agrees"
        else:
            rest = f"; {len(comparisons)} secondary rows apply and decide nothing" if comparisons else ""
        untranscribed = any(row.value is None and row.method in trained for row in expected.rows)
        why = " (its rows are not transcribed and verify nothing)" if untranscribed else ""
        return "unverified", f"no primary row for {_listed(trained) or 'what was run'}{why}{rest}"
    if not primary:
        return "unverified", f"{len(comparisons)} secondary rows apply, and no primary row that could decide"
    if missed:
        return "unverified", f"no fresh value for the primary rows {_listed(missed)}"
    if all(comparison.powerless for comparison in primary):
        return "unverified", "no primary row could have seen a deviation as small as the effect that it is about"
    return "verified", f"{len(primary)} of {len(primary)} primary rows agree at family-wise level {expected.alpha:g}"


# From run folders and score files to a verdict


def verify_runs(run_folders: Sequence[Path | str], expected: Path | str | None = None) -> Verdict:
    """Hold the runs in these folders, all of one recipe, against `expected` (default: what the package has for the recipe).

    A run whose settings have no row, and a recipe without a file, are unverified.

    Raises IncomparableError for an unfinished run, a run of another recipe, a run given twice, and other task or harness
    versions than the rows'; UserError for files that cannot be read.
    """
    if not run_folders:
        raise UserError("no run to verify; name at least one run folder")
    return _verify_evidence([read_run(folder) for folder in run_folders], expected)


def conclude(run_folder: Path) -> Verdict:
    """The verdict on one finished run, also left in its verdict.json. What cannot be compared is unverified, and says why."""
    try:
        verdict = verify_runs([run_folder])
    except IncomparableError as error:
        run = read_run(run_folder)
        verdict = Verdict(run.recipe, "unverified", str(error).removeprefix(f"{run_folder}: "), 0.0, (), (), (), ())
    write_json(run_folder / "verdict.json", verdict.as_json())
    return verdict


def verify_scores(scores: Path | str, *, recipe: str, method: str, iteration: int, expected: Path | str | None = None) -> Verdict:
    """Hold a results file of lm-eval, said to be of this recipe, method and iteration, against `expected`.

    Raises the errors of verify_runs.
    """
    evidence = read_scores(scores, recipe=recipe, method=method, iteration=iteration)
    note = "a scores file does not say which settings and weights it is about"
    return _verify_evidence([evidence], expected, note, partial=True)


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
        return Verdict(recipe, "unverified", _listed(strange), expected.alpha, inapplicable=inapplicable, notes=notes)
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
    changed = _listed(run.changed_settings()) or f"digest {run.settings_sha256[:12]} (rows: {digest[:12]})"
    return f"{run.name}: no row for the setting {changed}"


def _fresh(runs: Sequence[Evidence], expected: Expected) -> tuple[dict[Key, list[float]], list[str]]:
    """One value a run and key, and what was left out. Iteration 0 belongs to no method, and counts once for each seed."""
    rows = {row.key: row for row in expected.rows}
    fresh: dict[Key, list[float]] = {}
    left_out = []
    seen: set[tuple[Key, int | None]] = set()
    for run in runs:
        for iteration, score in run.each():
            key = Key(START if iteration == 0 else run.method, score.task, score.metric, iteration)
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


# For the terminal


def render(verdict: Verdict, brief: bool = False) -> "RenderableType":
    """The verdict as a table of the compared rows, primary ones first, and lines about the rest.

    `brief` leaves out the rows that neither decide nor disagree, and says how many they are.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colour = {"verified": "green", "disagrees": "red", "unverified": "yellow"}[verdict.status]
    parts: list[Any] = []
    shown = [c for c in verdict.comparisons if c.primary or not c.agrees or not brief]
    if shown:
        table = Table("row", "expected", "fresh", "runs", "difference", "tolerance", "detectable", "verdict")
        for column in table.columns[1:-1]:
            column.justify = "right"
        for c in sorted(shown, key=lambda c: not c.primary):
            numbers = [f"{c.expected:.4f}", f"{c.fresh:.4f}", str(c.runs), f"{c.difference:+.4f}", f"±{c.tolerance:.4f}"]
            detectable = "unknown" if c.detectable is None else f"{c.detectable:.4f}"
            style = "" if c.agrees else "red" if c.primary else "yellow"
            name = f"{c.key}{' (primary)' if c.primary else ''}"
            table.add_row(*(Text(cell, style) for cell in (name, *numbers, detectable, c.word)))
        parts.append(table)
    if left := len(verdict.comparisons) - len(shown):
        parts.append(Text(f"{left} secondary rows agree; `spac-repro verify` shows every row"))
    if brief:
        return Group(*parts, *_ending(verdict, colour))
    reasons = dict.fromkeys(reason for _, reason in verdict.inapplicable)
    parts += [
        Text(f"not compared, {reason}: {_listed((key for key, why in verdict.inapplicable if why == reason), most=6)}")
        for reason in reasons
    ]
    if verdict.without_row:
        parts.append(Text(f"without a row: {_listed(verdict.without_row, most=6)}"))
    return Group(*parts, *_ending(verdict, colour))


def _ending(verdict: Verdict, colour: str) -> "list[RenderableType]":
    from rich.text import Text

    notes = [Text(f"note: {note}") for note in verdict.notes]
    return [*notes, Text(f"{verdict.status}: {verdict.reason}", f"bold {colour}")]


def _listed(names: Iterable[object], most: int = 3) -> str:
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
