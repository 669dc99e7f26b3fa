"""What every optimiser step measured: metrics.jsonl, one line a step. No clock times: equal runs write equal lines."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError

TAIL = 4096  # bytes; a line is shorter


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one optimiser step, by name: loss, grad_norm, learning_rate, and what the method adds."""

    iteration: int  # 0 is the supervised start
    step: int  # from 1 in every iteration
    values: Mapping[str, float]

    def encode(self) -> bytes:
        """The step's line."""
        return (json.dumps({"iteration": self.iteration, "step": self.step, **self.values}) + "\n").encode()


def read(path: Path) -> list[StepMetrics]:
    """Every step up to the first whose line was not written whole; none where there is no file.

    Raises:
        UserError: a line is an object and not a step.
    """
    steps: list[StepMetrics] = []
    if path.exists():
        for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
            try:
                line = strict_json.parse(text, str(path), dict)
            except UserError:
                break
            steps.append(_step(line, f"{path}, line {number}"))
    return steps


def last(path: Path) -> StepMetrics | None:
    """The last step whose line was written whole; the rest of the file is not read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        try:
            return _step(strict_json.parse(text, str(path), dict), str(path))
        except UserError:
            continue  # cut off, at either end
    return None


def _step(line: dict[str, Any], place: str) -> StepMetrics:
    if not all(isinstance(line.get(name), int) for name in ("iteration", "step")):
        raise UserError(f"{place}: not the metrics of a step; the file was changed by hand or by another program")
    return StepMetrics(
        line["iteration"], line["step"], {name: value for name, value in line.items() if name not in ("iteration", "step")}
    )
