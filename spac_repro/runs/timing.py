"""timing.json: time and peak memory of every attempt at every stage."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from spac_repro.errors import UserError
from spac_repro.runs import files


class StageTiming(BaseModel):
    """One attempt at a stage. A stage may add figures of its own, such as tokens."""

    model_config = ConfigDict(frozen=True, extra="allow")

    iteration: int
    stage: str
    seconds: float
    peak_memory_bytes: int | None = None  # of the process so far
    peak_gpu_memory_bytes: int | None = None


_STAGES = TypeAdapter(list[StageTiming])


def read(path: Path, computed_from: Mapping[str, Any] | None) -> list[StageTiming]:
    """Read every attempt at every stage, in order. Return an empty list where there is no file.

    Args:
        path: The file.
        computed_from: The run that it must be about; None: a run of version 0.1, which wrote no hash into it.

    Raises:
        UserError: The file is damaged, or is about another run.
    """
    try:
        return _STAGES.validate_python(_read(path, computed_from))
    except ValidationError:
        raise UserError(f"{path}: not a list of stages; remove it: it holds nothing but timings") from None


def _read(path: Path, computed_from: Mapping[str, Any] | None) -> Any:
    if not path.exists():
        return []
    return files.read_json(path) if computed_from is None else files.read_sealed_json(path, computed_from=computed_from)


@contextmanager
def record_stage(
    path: Path, iteration: int, stage: str, *, computed_from: Mapping[str, Any] | None, write: bool
) -> Iterator[dict[str, Any]]:
    """Time a stage and append an entry for it.

    Args:
        path: The timing.json to append to.
        iteration: The stage's iteration.
        stage: The stage's name.
        computed_from: As for `read`.
        write: Whether to write the entry. False for all processes but the main one.

    Yields:
        The entry. The stage may add figures of its own.
    """
    import torch

    started = time.perf_counter()
    entry: dict[str, Any] = {"iteration": iteration, "stage": stage}
    yield entry
    if not write:
        return
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    entry |= {"seconds": round(time.perf_counter() - started, 3), "peak_memory_bytes": peak}
    if torch.cuda.is_available():
        entry["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    stages = [*_read(path, computed_from), entry]
    if computed_from is None:
        files.write_json(path, stages)
    else:
        files.write_sealed_json(path, stages, computed_from=computed_from)
