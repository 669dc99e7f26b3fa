"""Write the metrics of optimizer steps: a line per step in the metrics file, and the same values as TensorBoard events."""

import hashlib
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from spac_repro.optim.tensorboard_events import EventsWriter
from spac_repro.runs import file_hashes, ownership
from spac_repro.runs.files import write_bytes
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import WrittenMetrics
from spac_repro.runs.metrics import StepMetrics


class MetricsWriter:
    """Writes the metrics of one run; a context manager."""

    def __init__(self, folder: RunFolder) -> None:
        self._run = folder
        self._lines = 0
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._file: Any = None
        self._events: Any = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None:
            return
        try:
            with suppress(OSError) if error is not None else nullcontext():  # a full disk that stopped the run was said already
                self._file.close()
                self._events.close()
        finally:
            self._file = None

    def resume(self, at_checkpoint: WrittenMetrics | None, checkpoints: Path) -> None:
        """Drop what was written after a checkpoint, because training resumes there; must come before `write`.

        Args:
            at_checkpoint: the metrics file at the checkpoint; None: an iteration begins, after the finished ones.
            checkpoints: where the checkpoints lie, for the message.

        Raises:
            UserError: the file does not begin with what was written.
        """
        self.__exit__(None, None, None)
        path, finished = self._run.metrics_file, file_hashes.finished_metrics(self._run)
        kept = at_checkpoint or finished
        remedy = f"remove {checkpoints} and repeat the command" if at_checkpoint else "train again in another folder"
        file_hashes.check_metrics(self._run, kept, remedy=remedy)
        content = path.read_bytes()[: kept.bytes] if path.exists() else b""
        write_bytes(path, content)
        self._lines, self._bytes, self._digest = content.count(b"\n"), len(content), hashlib.sha256(content)
        self._file = path.open("ab")
        self._events = EventsWriter(self._run.tensorboard_folder, first_step=self._lines + 1)

    def write(self, iteration: int, step: int, values: dict[str, float]) -> None:
        """Append the line of a step. Steps count from 1 in every iteration; iteration 0 is the supervised start.

        Raises:
            UserError: the run folder was removed, or belongs to another run by now.
        """
        ownership.check(self._run.path)
        line = StepMetrics(iteration, step, values).encode()
        self._file.write(line)
        self._file.flush()
        self._lines, self._bytes = self._lines + 1, self._bytes + len(line)
        self._digest.update(line)
        stage = "iteration" if iteration else "start"
        self._events.write(self._lines, {f"{stage}/{name}": value for name, value in values.items()})

    def sync(self) -> WrittenMetrics:
        """Bring the file to the disk, and return its length and hash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return WrittenMetrics(bytes=self._bytes, sha256=self._digest.hexdigest())
