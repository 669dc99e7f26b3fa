"""Write the metrics of optimizer steps: a line per step in the metrics file, and the same values as TensorBoard events."""

from types import TracebackType
from typing import Any

from spac_repro.runs.files import write_bytes
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.metrics import StepMetrics, read


class MetricsWriter:
    """Writes the metrics of one run; a context manager."""

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.metrics_file
        self.events = folder.tensorboard_folder
        self.lines = 0
        self._file: Any = None
        self._writer: Any = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._writer.close()

    def rewind_to(self, iteration: int, step: int) -> None:
        """Drop the lines after a step, because training resumes there; must come before `write`."""
        from torch.utils.tensorboard import SummaryWriter

        self.__exit__(None, None, None)
        kept = [each for each in read(self.path) if (each.iteration, each.step) <= (iteration, step)]
        write_bytes(self.path, b"".join(each.encode() for each in kept))
        self.lines = len(kept)
        self._file = self.path.open("ab")
        self._writer = SummaryWriter(str(self.events), purge_step=self.lines + 1)

    def write(self, iteration: int, step: int, values: dict[str, float]) -> None:
        """Append the line of a step. Steps count from 1 in every iteration; iteration 0 is the supervised start."""
        self._file.write(StepMetrics(iteration, step, values).encode())
        self._file.flush()
        self.lines += 1
        stage = "iteration" if iteration else "start"
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, self.lines)
