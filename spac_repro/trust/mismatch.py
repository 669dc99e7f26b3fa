"""A mismatch between two runs: where it is, and both values as text."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Mismatch:
    """A value that differs between two runs, and where it stands."""

    stage: str  # "data", "self-play", "reference", "training", "weights", "scores"
    iteration: int | None
    place: str  # "row 7", "step 3", a tensor's name, "gold reward"
    what: str  # "learning_rate", "rejected", …
    a: str
    b: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields as `compare --json` prints them."""
        return asdict(self)

    def __str__(self) -> str:
        where = ", ".join(
            part for part in ("" if self.iteration is None else f"iteration {self.iteration}", self.stage, self.place) if part
        )
        return f"{where}: {self.what} is {self.a} in A and {self.b} in B" + (f" ({self.note})" if self.note else "")


def equal_or_both_nan(a: Any, b: Any) -> bool:
    """Whether two values are equal; NaN counts as equal to NaN."""
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def format_value(value: Any, max_length: int = 60) -> str:
    """A value in one line: numbers with nine digits, everything else as JSON, cut after `max_length` characters."""
    if value is None:
        return "absent"
    if isinstance(value, float | int):
        return f"{value:.9g}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
