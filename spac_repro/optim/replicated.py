"""The training engine without sharding: every process holds all weights, gradients and optimizer state."""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from spac_repro.optim import checkpoints, distributed
from spac_repro.optim.checkpoints import TrainingState


class Replicated:
    """Data parallelism: every process holds everything, and gradients are summed over processes parameter by parameter.

    It does not use DistributedDataParallel, which rearranges its buckets after the first step: with more than two processes a
    resumed run would then sum in a different order than an uninterrupted one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path | None = None,
        *,
        max_grad_norm: float,
        bfloat16: bool = False,
    ) -> None:
        self.module = model
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.bfloat16 = bfloat16
        if checkpoint is not None:
            state = checkpoints.load(checkpoint)
            checkpoints.load_model(self.module, state.full)
            checkpoints.load_optimizer(self.optimizer, state.full)

    def autocast(self) -> AbstractContextManager[None]:
        """Return torch's autocast to bfloat16 if that is on."""
        if not self.bfloat16:
            return nullcontext()
        device = next(self.module.parameters()).device.type
        return torch.autocast(device_type=device, dtype=torch.bfloat16)

    def backward(self, loss: Tensor, *, last_micro_batch: bool) -> None:
        """Accumulate the gradient; sum it over processes after the last micro-batch."""
        loss.backward()  # type: ignore[no-untyped-call]
        if last_micro_batch and distributed.world_size() > 1:
            import torch.distributed as dist

            gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                work.wait()

    def step(self, learning_rate: float) -> float:
        """Clip and step, unless the gradient is not finite; returns the gradient norm before clipping."""
        grad_norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm))
        if math.isfinite(grad_norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        return grad_norm

    def state(self) -> TrainingState:
        """Return weights and optimizer state; nothing is sharded."""
        return TrainingState({**self.weights(), **checkpoints.optimizer_tensors(self.optimizer)}, {})

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights."""
        return checkpoints.model_tensors(self.module)

    def close(self) -> None:
        """Do nothing: nothing but its users refers to this engine."""
