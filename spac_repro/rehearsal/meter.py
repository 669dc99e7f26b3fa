"""Measures the spans of a run: time, tokens, and peak memory of host and device."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from torch.nn.modules.module import register_module_forward_pre_hook

from spac_repro import spans
from spac_repro.model import freed_memory
from spac_repro.rehearsal.layer_clock import LayerClock

UPDATE = "update"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Occurrence:
    """A span that has ended. Time and tokens of the spans inside it are theirs and not its own."""

    name: str
    seconds: float = 0.0
    layer_seconds: float = 0.0  # of these, in the policy's layers; on a GPU, whose work is queued, they are not known
    update_seconds: float = 0.0  # of these, in the optimizer's update
    tokens: int = 0
    most_tokens: int = 0  # in one forward pass
    host: int = 0  # peak bytes, those of the spans inside it included
    device: int | None = None  # bytes allocated at the peak; None without a GPU


@dataclass
class Meter:
    """Listens to the spans of a run and measures them.

    Args:
        clock: seconds from some moment on; tests have their own.
    """

    clock: Callable[[], float] = time.perf_counter
    ended: list[Occurrence] = field(default_factory=list)
    _open: list[Occurrence] = field(default_factory=list)
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._layers = LayerClock(self.clock)

    def begin(self, name: str) -> None:
        """Begin to measure a span."""
        self._account()
        self._open.append(Occurrence(name))

    def end(self) -> None:
        """End the innermost span. The update is no stage of its own, but a part of the step that it belongs to."""
        self._account()
        ended = self._open.pop()
        if ended.name == UPDATE and self._open:
            self._open[-1].seconds += ended.seconds
            self._open[-1].update_seconds += ended.seconds
        else:
            self.ended.append(ended)

    def _account(self) -> None:
        """Give the time since the last call to the innermost span, and the peaks to all open ones; begin new peaks."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, host, in_layers = self.clock(), _peak_of_host(), self._layers.take()
        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        if self._open:
            self._open[-1].seconds += now - self._since
            self._open[-1].layer_seconds += in_layers
        for each in self._open:
            each.host = max(each.host, host)
            each.device = device if device is None else max(each.device or 0, device)
        _reset_peaks()
        self._since = self.clock()

    @contextmanager
    def measuring(self, vocabulary: int) -> Iterator[None]:
        """Measure the spans of what is done inside this block.

        Args:
            vocabulary: rows of the policy's embedding, by which it is known: tokens that pass it are counted.
        """

        def count(module: nn.Module, inputs: Any) -> None:
            if self._open and isinstance(module, nn.Embedding) and module.num_embeddings == vocabulary:
                tokens = int(inputs[0].numel())
                self._open[-1].tokens += tokens
                self._open[-1].most_tokens = max(self._open[-1].most_tokens, tokens)

        freed_memory.release()
        handle = register_module_forward_pre_hook(count)
        try:
            with spans.listening(self), nullcontext() if torch.cuda.is_available() else self._layers.hooked():
                yield
        finally:
            handle.remove()
            self._open.clear()


def _peak_of_host() -> int:
    """The peak of this process's memory in bytes since `_reset_peaks`; since its start where the system keeps no other."""
    try:
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _reset_peaks() -> None:
    with suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")  # Linux: the peak is the present value
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def matmul_flops(rows: int, width: int, inner: int, dtype: torch.dtype, device: torch.device) -> float:
    """Measure the rate of a matrix product [rows, width] × [width, inner] in FLOP/s: the median of seven."""
    left, right = (torch.ones(shape, dtype=dtype, device=device) for shape in ((rows, width), (inner, width)))
    seconds = []
    for _ in range(8):
        begin = time.perf_counter()
        linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2.0 * rows * width * inner / sorted(seconds[1:])[3]
