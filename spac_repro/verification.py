"""Fresh scores against expected_results: does a run say the same as the runs, or the paper, before it?

A row (method, iteration, task, metric, value) that was *measured* on K seeds with standard deviation s is compared with the
mean of k fresh runs by a t prediction interval

    |fresh - expected| <= t(K - 1, 1 - a/2) * s * sqrt(1/k + 1/K)

which runs of the same program leave with probability a, whatever their true spread is. The same questions are asked on both
sides, so the harness's standard error does not enter. A *published* row stands for one run (K = 1) and has no spread of its
own: it is borrowed, with its degrees of freedom, or a tolerance is argued. A row that is *not transcribed* verifies nothing.

The primary rows decide. Their family-wise level is the file's `alpha`, divided evenly among the primary rows that apply
(Bonferroni; whether any of them fails is decided exactly as by Holm's procedure). The other rows are judged at `alpha` each
and reported only. A deviation in either direction fails, and so does a number that is not finite, in any row.

The smallest detectable deviation of a row is the true deviation that the check would find in 80 % of repetitions. With s
estimated from K runs the test statistic then follows a noncentral t distribution with K - 1 degrees of freedom; its
noncentrality is solved for, and sigma in deviation = noncentrality * sigma * sqrt(1/k + 1/K) is taken to be s.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from spac_repro.expectations import START, Expected, Fresh, Key, Row

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
    from scipy.stats import t

    return float(t.ppf(1 - alpha / 2, freedom))


@lru_cache
def _normal_quantile(probability: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(probability))


@lru_cache
def _noncentrality(freedom: int, alpha: float) -> float:
    """The noncentrality at which a two-sided t test of level alpha rejects with probability POWER.

    A noncentral t variable is (Z + noncentrality) / S with S² a chi-square over its degrees of freedom; the probability is
    averaged over a fine grid of S, because scipy's own distribution gives NaN far in its tails.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import chi2, norm

    critical = _quantile(freedom, alpha)
    bounds = critical * np.sqrt(chi2.ppf((np.arange(4000) + 0.5) / 4000, freedom) / freedom)

    def lacking(noncentrality: float) -> float:
        return float(np.mean(norm.cdf(noncentrality - bounds) + norm.cdf(-noncentrality - bounds))) - POWER

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


def verify(expected: Expected, fresh: Fresh, *, notes: Sequence[str] = ()) -> Verdict:
    """Hold fresh values, one a run, against the expected rows."""
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
    status, reason = _decide(expected, comparisons, without_row)
    return Verdict(
        expected.recipe, status, reason, expected.alpha, tuple(comparisons), tuple(inapplicable), without_row, tuple(notes)
    )


def _decide(
    expected: Expected, comparisons: Sequence[Comparison], without_row: Sequence[Key]
) -> tuple[Literal["verified", "disagrees", "unverified"], str]:
    primary = [comparison for comparison in comparisons if comparison.primary]
    failed = [c for c in comparisons if (c.primary and not c.agrees) or not math.isfinite(c.fresh)]
    if failed:
        return "disagrees", f"{_listed(c.key for c in failed)}: outside the tolerance, or not a finite number"
    if not comparisons:
        untranscribed = any(row.value is None for row in expected.rows)
        about = _listed(dict.fromkeys(key.method for key in without_row)) or "what was run"
        hint = " (rows that are not transcribed verify nothing)" if untranscribed else ""
        return "unverified", f"no row for {about}{hint}"
    if not primary:
        return "unverified", f"{len(comparisons)} secondary rows apply, and no primary row that could decide"
    if all(comparison.powerless for comparison in primary):
        return "unverified", "no primary row could have seen a deviation as small as the effect that it is about"
    return "verified", f"{len(primary)} of {len(primary)} primary rows agree at family-wise level {expected.alpha:g}"


def _listed(names: Iterable[object], most: int = 3) -> str:
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
