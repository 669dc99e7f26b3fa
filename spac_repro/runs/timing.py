"""timing.json: how long each stage took, in every attempt at it, and the most memory used."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from spac_repro.errors import UserError
from spac_repro.runs import files


class StageTiming(BaseModel):
    """One attempt at a stage. Figures of the stage's own, such as tokens, are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    iteration: int
    stage: str
    seconds: float
    peak_memory_bytes: int | None = None  # of the process so far
    peak_gpu_memory_bytes: int | None = None


_STAGES = TypeAdapter(list[StageTiming])


def read(path: Path) -> list[StageTiming]:
    """Every attempt at every stage, in order; none where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return _STAGES.validate_python(files.read_json(path)) if path.exists() else []
    except ValidationError:
        raise UserError(f"{path}: not a list of stages; remove it, it is about time only") from None


@contextmanager
def record_stage(path: Path, iteration: int, stage: str, *, write: bool) -> Iterator[dict[str, Any]]:
    """Time a stage and add a line for it to `path`, where `write`; what is put into the dict that it yields is kept too."""
    import torch

    begun = time.perf_counter()
    entry: dict[str, Any] = {"iteration": iteration, "stage": stage}
    yield entry
    if not write:
        return
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    entry |= {"seconds": round(time.perf_counter() - begun, 3), "peak_memory_bytes": peak}
    if torch.cuda.is_available():
        entry["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    there = files.read_json(path) if path.exists() else []
    files.write_json(path, [*there, entry])
