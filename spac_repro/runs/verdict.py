"""What verification said of a run: verdict.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from spac_repro.errors import UserError
from spac_repro.runs import files

Status = Literal["verified", "disagrees", "unverified"]
FILE = "verdict.json"


class ScoreKey(NamedTuple):
    """What a number is about. `iteration` is None where there is no such thing."""

    method: str
    task: str
    metric: str
    iteration: int | None = None

    def __str__(self) -> str:
        iteration = "" if self.iteration is None else f" iteration {self.iteration}"
        return f"{self.method}{iteration} {self.task} {self.metric}"


@dataclass(frozen=True)
class RowComparison:
    """One expected row beside the fresh runs, all in the metric's unit. `fresh` is the mean of `runs` values."""

    key: ScoreKey
    primary: bool
    kind: str  # of the row's source
    expected: float
    fresh: float
    runs: int
    tolerance: float
    smallest_detectable: float | None
    effect: float | None
    note: str = ""

    @property
    def difference(self) -> float:
        """Fresh minus expected, in the metric's unit."""
        return self.fresh - self.expected

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= self.tolerance  # false for a difference that is not finite

    @property
    def underpowered(self) -> bool:
        """Could not have told the expected value from one that is `effect` away; False where no effect is known."""
        return self.effect is not None and max(self.smallest_detectable or 0.0, self.tolerance) > self.effect

    @property
    def outcome(self) -> str:
        """`agrees` in one word."""
        return "agrees" if self.agrees else "disagrees"

    def as_json(self) -> dict[str, Any]:
        """The comparison as it is written to verdict.json."""
        numbers = {
            "expected": self.expected,
            "fresh": self.fresh,
            "runs": self.runs,
            "difference": self.difference,
            "tolerance": self.tolerance,
            "smallest_detectable": self.smallest_detectable,
            "effect": self.effect,
        }
        return {
            **self.key._asdict(),
            "primary": self.primary,
            "source": self.kind,
            **{name: value if value is None or math.isfinite(value) else str(value) for name, value in numbers.items()},
            "verdict": self.outcome,
            "without_power": self.underpowered,
            "note": self.note,
        }


@dataclass(frozen=True)
class Verdict:
    """What verification said.

    `inapplicable` are the rows that were not compared, and why; `without_row` are the fresh numbers that no row is about.
    """

    recipe: str
    status: Status
    reason: str
    alpha: float
    comparisons: tuple[RowComparison, ...] = ()
    inapplicable: tuple[tuple[ScoreKey, str], ...] = ()
    without_row: tuple[ScoreKey, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 verified, 1 disagrees, 2 nothing to hold the numbers against."""
        return {"verified": 0, "disagrees": 1, "unverified": 2}[self.status]

    def as_json(self) -> dict[str, Any]:
        """What verdict.json holds: valid JSON, in which a number that is not finite is written as text."""
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


_VERDICT = TypeAdapter(Verdict)


def read(path: Path) -> Verdict:
    """Read a verdict.

    Raises:
        UserError: it cannot be read, or is no verdict.
    """
    found = files.read_json(path)
    try:
        return _VERDICT.validate_python(_fields(found))
    except (ValidationError, LookupError, TypeError):
        raise UserError(f"{path}: not a verdict; the file was changed by hand; repeat the run's `train` command") from None


def write(folder: Path, verdict: Verdict) -> Path:
    """Leave a verdict in a folder, whole or not at all; its path."""
    path = folder / FILE
    files.write_json(path, verdict.as_json())
    return path


def _fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Verdict under the names that they have there. What follows from others is computed anew."""
    rows = [{**row, "key": _key(row), "kind": row["source"]} for row in found["rows"]]
    return {
        **found,
        "comparisons": rows,
        "inapplicable": [(_key(entry), entry["reason"]) for entry in found["inapplicable"]],
        "without_row": [_key(entry) for entry in found["without_row"]],
    }


def _key(entry: Mapping[str, Any]) -> ScoreKey:
    return ScoreKey(*(entry[name] for name in ScoreKey._fields))
