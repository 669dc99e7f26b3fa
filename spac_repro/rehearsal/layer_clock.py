"""How long a model's layers take, forward and backward: the part of a stage that grows with the number of layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers.modeling_layers import GradientCheckpointingLayer


class LayerClock:
    """Adds up the time that passes in the layers of a model.

    A layer's forward pass is between the hooks of its module. Its backward pass is between the gradient of its output and that of
    its input; what gradient checkpointing computes again lies in between.

    Where a layer's input has no gradient, its backward pass has no end that a hook sees: the next forward pass or `take` ends it.

    Args:
        clock: seconds from some moment on. It must not run ahead of the device: a GPU's work is queued, so there are no such times.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._depth = 0  # passes that have begun and not ended: in a backward pass, one layer begins just before another ends
        self._since = 0.0
        self._seconds = 0.0

    def take(self) -> float:
        """Return the seconds since the last call, and begin anew."""
        self._end()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Time the layers of every model that is called inside this block."""
        handles = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._depth, self._seconds = 0, 0.0

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if isinstance(module, GradientCheckpointingLayer):
            self._end()
            _on_gradient(inputs, self._leave)
            self._enter()

    def _after(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if isinstance(module, GradientCheckpointingLayer):
            self._leave()
            _on_gradient(outputs, self._enter)

    def _end(self) -> None:
        while self._depth:
            self._leave()

    def _enter(self) -> None:
        if not self._depth:
            self._since = self._clock()
        self._depth += 1

    def _leave(self) -> None:
        if not self._depth:  # the end of a pass that `take` has ended already
            return
        self._depth -= 1
        if not self._depth:
            self._seconds += self._clock() - self._since


def _on_gradient(values: Any, call: Callable[[], None]) -> None:
    """Call when the gradient of the hidden states is computed, which are the first of a layer's values."""
    hidden = values[0] if isinstance(values, tuple) else values
    if isinstance(hidden, Tensor) and hidden.requires_grad:
        hidden.register_hook(lambda gradient: call())  # type: ignore[no-untyped-call]
