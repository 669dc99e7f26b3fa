"""The interface of a training engine: gradient, optimizer step and state of a model over all processes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from spac_repro.engines import EngineSpec
from spac_repro.optim.checkpoints import TrainingState
from spac_repro.registry import import_object


class Engine(Protocol):
    """A training engine. Its constructor restores the state of a checkpoint, if it gets one."""

    @property
    def module(self) -> nn.Module:
        """The module that computes log-probabilities: the policy, or the engine's wrapper around it."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the loss is computed; it does nothing where the engine handles precision itself."""

    def backward(self, loss: Tensor, *, last_micro_batch: bool) -> None:
        """Accumulate the gradient of a scalar loss.

        Args:
            loss: the sum of example losses, each divided by the number of examples of the step over all processes. The gradient
                of the step is the sum over micro-batches and processes.
            last_micro_batch: whether `step` comes next, so that gradients must be summed over the processes now.
        """

    def step(self, learning_rate: float) -> float:
        """Clip the gradient and take an optimizer step; returns the gradient norm before clipping."""

    def state(self) -> TrainingState:
        """Return what a checkpoint keeps."""

    def weights(self) -> dict[str, Tensor]:
        """Return the model's full weights, under their names in a checkpoint; only the main process needs to have them."""

    def close(self) -> None:
        """Let go of what the process would keep of the engine after its last use; the engine is not used afterwards."""


@dataclass(frozen=True)
class EngineFactory:
    """Builds a training engine for a model and an optimizer."""

    spec: EngineSpec
    model: nn.Module
    optimizer: torch.optim.Optimizer
    max_grad_norm: float
    bfloat16: bool = False  # compute losses under autocast to bfloat16

    def __call__(self, checkpoint: Path | None) -> Engine:
        """Build the engine, in the state of the checkpoint if there is one."""
        engine: Engine = import_object(self.spec.implementation)(
            self.model, self.optimizer, checkpoint, max_grad_norm=self.max_grad_norm, bfloat16=self.bfloat16
        )
        return engine
