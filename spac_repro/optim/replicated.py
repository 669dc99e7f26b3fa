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

    Weights of 16 bits have a float32 copy, which is what the optimizer changes (Micikevicius et al. 2018, arXiv 1710.03740, 3.1):
    most steps are smaller than the distance between two bfloat16 numbers. Their gradients are summed in float32, too.
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
        self.copies = {each: _copy(each) for each in model.parameters() if each.requires_grad and each.element_size() < 4}
        for group in optimizer.param_groups:
            group["params"] = [self.copies.get(parameter, parameter) for parameter in group["params"]]
        self.max_grad_norm = max_grad_norm
        self.bfloat16 = bfloat16
        if checkpoint is not None:
            state = checkpoints.load(checkpoint)
            checkpoints.load_model(self.module, state.full)
            checkpoints.load_optimizer(self.optimizer, state.full)
            for name, copy in self._named_copies().items():
                copy.data.copy_(state.full[name])

    def autocast(self) -> AbstractContextManager[None]:
        """Return torch's autocast to bfloat16 if that is on."""
        if not self.bfloat16:
            return nullcontext()
        device = next(self.module.parameters()).device.type
        return torch.autocast(device_type=device, dtype=torch.bfloat16)

    def backward(self, loss: Tensor, *, last_micro_batch: bool) -> None:
        """Accumulate the gradient; sum it over processes after the last micro-batch."""
        loss.backward()  # type: ignore[no-untyped-call]
        for weights, copy in self.copies.items():
            if weights.grad is not None:
                copy.grad = weights.grad.float() if copy.grad is None else copy.grad.add_(weights.grad)
                weights.grad = None
        if last_micro_batch and distributed.world_size() > 1:
            import torch.distributed as dist

            gradients = [parameter.grad for parameter in self._optimized() if parameter.grad is not None]
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                work.wait()

    def step(self, learning_rate: float) -> float:
        """Clip and step, unless the gradient is not finite; returns the gradient norm before clipping."""
        grad_norm = float(nn.utils.clip_grad_norm_(self._optimized(), self.max_grad_norm))
        if math.isfinite(grad_norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            for weights, copy in self.copies.items():
                weights.data.copy_(copy.data)
        self.optimizer.zero_grad()
        return grad_norm

    def _optimized(self) -> list[nn.Parameter]:
        """The model's parameters, with the float32 copy of each that has one."""
        return [self.copies.get(parameter, parameter) for parameter in self.module.parameters()]

    def _named_copies(self) -> dict[str, Tensor]:
        """The float32 copies, under their names in a checkpoint."""
        return {f"float32.{i}": copy.detach() for i, copy in enumerate(self.copies.values())}

    def state(self) -> TrainingState:
        """Return weights, their float32 copies, and optimizer state; nothing is sharded."""
        return TrainingState({**self.weights(), **self._named_copies(), **checkpoints.optimizer_tensors(self.optimizer)}, {})

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights."""
        return checkpoints.model_tensors(self.module)

    def close(self) -> None:
        """Do nothing: nothing but its users refers to this engine."""


def _copy(weights: nn.Parameter) -> nn.Parameter:
    """The same numbers in float32."""
    return nn.Parameter(weights.detach().float())
