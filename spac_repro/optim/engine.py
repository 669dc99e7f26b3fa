"""What an engine is: gradient, step and state of a model over all processes; and how one is built.

Whichever it is, `backward` is given losses in which every example weighs 1 / (examples of the step, over all processes), and the
gradient is their sum over all processes.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from spac_repro.engines import EngineSpec
from spac_repro.registry import load

State = tuple[dict[str, Tensor], dict[str, Tensor]]  # what is whole, on the main process; this process's own share


class Engine(Protocol):
    """Gradient, step and state of a model. It begins, when it is built, in the state of its checkpoint."""

    @property
    def module(self) -> nn.Module:
        """What is called to compute log-probabilities."""

    def autocast(self) -> AbstractContextManager[None]:
        """What surrounds the computation of a loss; nothing where the engine sees to precision itself."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradient; `last`: the step comes next."""

    def step(self, rate: float) -> float:
        """Move along the gradient, which is cut to length; returns its norm before that."""

    def state(self) -> State:
        """What a checkpoint keeps."""

    def weights(self) -> dict[str, Tensor]:
        """The model's weights, whole, by the names in a checkpoint; on the main process."""


@dataclass(frozen=True)
class Build:
    """How an engine is made: which one, of which model and optimizer, with which clipping and precision."""

    spec: EngineSpec
    model: nn.Module
    optimizer: torch.optim.Optimizer
    max_grad_norm: float
    bfloat16: bool = False  # autocast to it

    def __call__(self, checkpoint: Path | None) -> Engine:
        """The engine, in the state of a checkpoint if there is one."""
        engine: Engine = load(self.spec.implementation)(
            self.model, self.optimizer, checkpoint, max_grad_norm=self.max_grad_norm, bfloat16=self.bfloat16
        )
        return engine
