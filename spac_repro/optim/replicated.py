"""The engine that replicates: every process holds weights, gradients and optimizer state whole."""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from spac_repro.optim import checkpoints, processes
from spac_repro.optim.engine import State


class Replicated:
    """Every process holds everything; gradients are summed over processes one parameter after the other.

    Not by DistributedDataParallel: that lays its buckets out anew after the first step, so with more than two processes a resumed
    run would add in another order than one that was never stopped.
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
            whole, _ = checkpoints.read(checkpoint)
            checkpoints.load_model(self.module, whole)
            checkpoints.load_optimizer(self.optimizer, whole)

    def autocast(self) -> AbstractContextManager[None]:
        if not self.bfloat16:
            return nullcontext()
        device = next(self.module.parameters()).device.type
        return torch.autocast(device_type=device, dtype=torch.bfloat16)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()
        if last and processes.world() > 1:
            import torch.distributed as dist

            gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                work.wait()

    def step(self, rate: float) -> float:
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state(self) -> State:
        return {**self.weights(), **checkpoints.of_optimizer(self.optimizer)}, {}

    def weights(self) -> dict[str, Tensor]:
        return checkpoints.of_model(self.module)
