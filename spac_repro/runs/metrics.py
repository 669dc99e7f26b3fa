"""metrics.jsonl: the metrics of every optimizer step, one line each. It has no clock times, so equal runs write equal lines."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError

TAIL_BYTES = 4096  # longer than any line


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one optimizer step by name: loss, grad_norm, learning_rate, and those of the method."""

    iteration: int  # 0 is the supervised start
    step: int  # from 1 in every iteration
    values: Mapping[str, float]

    def encode(self) -> bytes:
        """Return the step's line of metrics.jsonl."""
        return (json.dumps({"iteration": self.iteration, "step": self.step, **self.values}) + "\n").encode()


def read(path: Path) -> list[StepMetrics]:
    """Read every step up to the first incomplete line. Return an empty list where there is no file.

    Raises:
        UserError: A line is a JSON object but not the metrics of a step.
    """
    steps: list[StepMetrics] = []
    if path.exists():
        for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                line = strict_json.parse(text, str(path), dict)
            except UserError:
                break
            steps.append(_step(line, f"{path}, line {number}"))
    return steps


def last(path: Path) -> StepMetrics | None:
    """Read the last step with a complete line; None where there is none. The rest of the file is not read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        try:
            return _step(strict_json.parse(text, str(path), dict), str(path))
        except UserError:
            continue  # an incomplete line, at either end
    return None


def _step(line: dict[str, Any], place: str) -> StepMetrics:
    if not all(isinstance(line.get(name), int) for name in ("iteration", "step")):
        raise UserError(f"{place}: not the metrics of a step; the file was changed by hand or by another program")
    return StepMetrics(
        line["iteration"], line["step"], {name: value for name, value in line.items() if name not in ("iteration", "step")}
    )
