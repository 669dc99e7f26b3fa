"""metrics.jsonl: the metrics of every optimizer step, one line each. It has no clock times, so equal runs write equal lines."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError

TAIL_BYTES = 4096  # longer than any line
HASH = "sha256"  # of the rest of a line, cut to 16 digits
REMEDY = "the file was changed or is damaged; repeat the run's `train` command, or train again in another folder"


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one optimizer step by name: loss, grad_norm, learning_rate, and those of the method."""

    iteration: int  # 0 is the supervised start
    step: int  # from 1 in every iteration
    values: Mapping[str, float]

    def encode(self) -> bytes:
        """Return the step's line of metrics.jsonl, which ends with a hash of what stands before it."""
        content = {"iteration": self.iteration, "step": self.step, **self.values}
        return (json.dumps({**content, HASH: _line_hash(content)}) + "\n").encode()


def read(path: Path) -> list[StepMetrics]:
    """Read every step. A last line without a line break is left out: it is being written, or a process was killed meanwhile.

    Returns:
        The steps in order; an empty list where there is no file.

    Raises:
        UserError: A line was changed, or is not the metrics of a step.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise UserError(f"{path}: not a file; {REMEDY}")
    *lines, _ = path.read_bytes().split(b"\n")
    return [_step(text, f"{path}, line {number}") for number, text in enumerate(lines, 1)]


def last(path: Path) -> StepMetrics | None:
    """Read the last step with a complete line; None where there is none. The rest of the file is not read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        with suppress(UserError):  # an incomplete line, at either end
            return _step(text, str(path))
    return None


def _step(text: bytes, place: str) -> StepMetrics:
    try:
        line = strict_json.parse(text, place, dict)
    except UserError:
        raise UserError(f"{place}: not the metrics of a step; {REMEDY}") from None
    written = line.pop(HASH, None)  # version 0.1 wrote none
    if written is not None and written != _line_hash(line):
        raise UserError(f"{place}: its hash is not the one written in it; {REMEDY}")
    if not all(isinstance(line.get(name), int) for name in ("iteration", "step")) or not all(map(_is_number, line.values())):
        raise UserError(f"{place}: not the metrics of a step; {REMEDY}")
    return StepMetrics(
        line["iteration"], line["step"], {name: value for name, value in line.items() if name not in ("iteration", "step")}
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _line_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
