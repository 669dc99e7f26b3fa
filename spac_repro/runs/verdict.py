"""verdict.json: the result of verifying a run against the expected results."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from spac_repro.errors import UserError
from spac_repro.runs import files

Status = Literal["verified", "disagrees", "unverified"]
FILE = "verdict.json"


class ScoreKey(NamedTuple):
    """What identifies a score. `iteration` is None where the score belongs to no iteration."""

    method: str
    task: str
    metric: str
    iteration: int | None = None

    def __str__(self) -> str:
        iteration = "" if self.iteration is None else f" iteration {self.iteration}"
        return f"{self.method}{iteration} {self.task} {self.metric}"


class ExpectedResultsFile(NamedTuple):
    """The file of expected results that a verdict is from."""

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256}"


@dataclass(frozen=True)
class SeveralRuns:
    """What the mean of several fresh runs hides, in the metric's unit."""

    furthest: float  # the value that is furthest from the expected one
    run_tolerance: float  # its largest difference that agrees
    spread: float  # standard deviation over the fresh runs
    largest_spread: float | None  # that agrees; None: not tested, as with an argued tolerance


@dataclass(frozen=True)
class ScoreComparison:
    """One expected row compared with fresh runs. All numbers are in the metric's unit; `fresh` is the mean over `runs` runs.

    `tolerance` and `smallest_detectable` are those of the mean.
    """

    key: ScoreKey
    primary: bool
    kind: str  # of the row's source: measured, published, …
    expected: float
    fresh: float
    runs: int
    tolerance: float
    smallest_detectable: float | None
    effect: float | None
    note: str = ""
    several: SeveralRuns | None = None  # None for one run

    @property
    def difference(self) -> float:
        """Fresh minus expected, in the metric's unit."""
        return self.fresh - self.expected

    @property
    def faults(self) -> tuple[str, ...]:
        """What is outside its tolerance: the mean, a run, the spread. A number that is not finite is outside."""
        found = [] if abs(self.difference) <= self.tolerance else ["mean" if self.several else "value"]
        if self.several is not None:
            if not abs(self.several.furthest - self.expected) <= self.several.run_tolerance:
                found.append("a run")
            if self.several.largest_spread is not None and not self.several.spread <= self.several.largest_spread:
                found.append("spread")
        return tuple(found)

    @property
    def agrees(self) -> bool:
        """Whether the mean, every run and the spread of the runs are within their tolerances."""
        return not self.faults

    @property
    def underpowered(self) -> bool:
        """Whether the check could not detect a deviation of size `effect`. False where no effect is known."""
        return self.effect is not None and max(self.smallest_detectable or 0.0, self.tolerance) > self.effect

    @property
    def outcome(self) -> str:
        """`agrees` or `disagrees`."""
        return "agrees" if self.agrees else "disagrees"

    def as_json(self) -> dict[str, Any]:
        """Return the comparison's entry in verdict.json."""
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
            **_json_numbers(numbers),
            "several_runs": _json_numbers(asdict(self.several)) if self.several else None,
            "verdict": self.outcome,
            "outside": list(self.faults),
            "without_power": self.underpowered,
            "note": self.note,
        }


def _json_numbers(numbers: Mapping[str, float | None]) -> dict[str, float | str | None]:
    """The numbers as valid JSON: one that is not finite is text."""
    return {name: value if value is None or math.isfinite(value) else str(value) for name, value in numbers.items()}


@dataclass(frozen=True)
class Verdict:
    """The result of a verification.

    `inapplicable` are the expected rows that were not compared, each with the reason. `without_row` are the fresh scores without an
    expected row.
    `files` says of each run which of its files were checked.
    """

    recipe: str
    status: Status
    reason: str
    alpha: float
    comparisons: tuple[ScoreComparison, ...] = ()
    inapplicable: tuple[tuple[ScoreKey, str], ...] = ()
    without_row: tuple[ScoreKey, ...] = ()
    notes: tuple[str, ...] = ()
    expected_file: ExpectedResultsFile | None = None
    files: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: verified. 1: disagrees. 2: no expected row applies."""
        return {"verified": 0, "disagrees": 1, "unverified": 2}[self.status]

    def as_json(self) -> dict[str, Any]:
        """Return the content of verdict.json. Numbers that are not finite are written as text, so that it is valid JSON."""
        return {
            "recipe": self.recipe,
            "status": self.status,
            "reason": self.reason,
            "alpha": self.alpha,
            "rows": [comparison.as_json() for comparison in self.comparisons],
            "inapplicable": [{**key._asdict(), "reason": reason} for key, reason in self.inapplicable],
            "without_row": [key._asdict() for key in self.without_row],
            "notes": list(self.notes),
            "expected_file": self.expected_file._asdict() if self.expected_file else None,
            "files": list(self.files),
        }


_VERDICT = TypeAdapter(Verdict)


def read(path: Path, *, computed_from: Mapping[str, Any] | None = None) -> Verdict:
    """Read a verdict.

    Args:
        path: The file.
        computed_from: What it must be about, as `write` was told.

    Raises:
        UserError: The file cannot be read, is not a verdict, was changed, or is about something else.
    """
    found = files.read_json(path)
    remedy = "remove it and repeat the run's `train` command"
    try:
        sealed = found.pop("sha256")
        if sealed != files.sha256_json(found):
            raise UserError(f"{path}: its hash is not the one written in it; {remedy}")
        if found["computed_from"] != dict(computed_from or {}):
            raise UserError(f"{path}: it is about other results than those beside it; {remedy}")
        return _VERDICT.validate_python(_fields(found))
    except (ValidationError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: not a verdict; the file was changed by hand; {remedy}") from None


def write(folder: Path, verdict: Verdict, *, computed_from: Mapping[str, Any] | None = None) -> Path:
    """Write a verdict into a folder atomically, with its hash and what it is about, and return its path."""
    path = folder / FILE
    content = {**verdict.as_json(), "computed_from": dict(computed_from or {})}
    files.write_json(path, {**content, "sha256": files.sha256_json(content)})
    return path


def _fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """Map the keys of verdict.json to the fields of `Verdict`. Derived values are computed again."""
    rows = [{**row, "key": _key(row), "kind": row["source"], "several": row.get("several_runs")} for row in found["rows"]]
    return {
        **found,
        "comparisons": rows,
        "inapplicable": [(_key(entry), entry["reason"]) for entry in found["inapplicable"]],
        "without_row": [_key(entry) for entry in found["without_row"]],
        "expected_file": ExpectedResultsFile(**found["expected_file"]) if found["expected_file"] else None,
    }


def _key(entry: Mapping[str, Any]) -> ScoreKey:
    return ScoreKey(*(entry[name] for name in ScoreKey._fields))
