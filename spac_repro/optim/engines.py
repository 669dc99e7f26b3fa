"""What takes an optimiser step over all processes: plainly, or with DeepSpeed's ZeRO, which shares the state out among them.

Whichever it is, `backward` is given losses in which every example weighs 1 / (examples of the step, over all processes), and the
gradient is their sum over all processes.
"""

import json
import math
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spac_repro.optim import checkpoints, processes

State = tuple[dict[str, Tensor], dict[str, Tensor]]  # what is whole, on the main process; this process's own share


class Engine(Protocol):
    """Gradient, step and state of a model."""

    @property
    def module(self) -> nn.Module:
        """What is called to compute log-probabilities."""

    def begin(self, checkpoint: Path | None) -> None:
        """Get ready, in the state of a checkpoint if there is one."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradient; `last`: the step comes next."""

    def step(self, rate: float) -> float:
        """Move along the gradient, which is cut to length; returns its norm before that."""

    def state(self) -> State:
        """What a checkpoint keeps."""

    def weights(self) -> dict[str, Tensor]:
        """The model's weights, whole, by the names in a checkpoint; on the main process."""


class Plain:
    """Every process holds everything; gradients are summed over processes one parameter after the other.

    Not by DistributedDataParallel: that lays its buckets out anew after the first step, so with more than two processes a resumed
    run would add in another order than one that was never stopped.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, max_grad_norm: float) -> None:
        self.module = model
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm

    def begin(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            whole, _ = checkpoints.read(checkpoint)
            checkpoints.load_model(self.module, whole)
            checkpoints.load_optimizer(self.optimizer, whole)

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


class Zero:
    """DeepSpeed's ZeRO, stage 2 or 3. Its own checkpoints are pickles; here each process's share goes into safetensors."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, stage: int, max_grad_norm: float, autocast: bool
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        half = next(model.parameters()).dtype == torch.bfloat16
        self.settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,  # nominal: how examples are weighted and cut up is decided in optimisation.py
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_grad_norm,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10_000},
            "zero_allow_untested_optimizer": True,  # RMSProp
            "bf16": {"enabled": half},
            "torch_autocast": {"enabled": autocast and not half, "dtype": "bfloat16"},
            "steps_per_print": 10**9,
        }
        self.engine: Any = None

    @property
    def module(self) -> nn.Module:
        return self.engine if self.engine is not None else self.model

    def begin(self, checkpoint: Path | None) -> None:
        import deepspeed

        whole, share = checkpoints.read(checkpoint) if checkpoint else ({}, {})
        if whole:
            checkpoints.load_model(self.model, whole)  # before ZeRO shares the weights out
        _compile_nothing()
        settings = json.loads(json.dumps(self.settings))
        self.engine, *_ = deepspeed.initialize(model=self.model, optimizer=self.optimizer, config=settings)
        if share:
            self._load(share)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * processes.world())  # DeepSpeed takes the mean over processes

    def step(self, rate: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def state(self) -> State:
        share = {}
        for i, weights in enumerate(self._flat()):
            share[f"{i}.weights"] = weights.detach().contiguous()
            for name, value in self.engine.optimizer.optimizer.state.get(weights, {}).items():
                share[f"{i}.state.{name}"] = torch.as_tensor(value).contiguous()
        return self.weights(), share

    def weights(self) -> dict[str, Tensor]:
        import deepspeed

        whole: dict[str, Tensor] = {}
        for name, parameter in self.engine.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                if processes.is_main():
                    whole[f"model.{name}"] = parameter.detach().cpu().clone()
        return whole

    def _load(self, share: dict[str, Tensor]) -> None:
        state = self.engine.optimizer.optimizer.state
        for i, weights in enumerate(self._flat()):
            weights.data.copy_(share[f"{i}.weights"])
            prefix = f"{i}.state."
            names = [name for name in share if name.startswith(prefix)]
            # A count of steps lies where the optimizer put it; all else beside the weights.
            state[weights] = {
                name.removeprefix(prefix): share[name].to(weights.device) if share[name].dim() else share[name] for name in names
            }

    def _flat(self) -> list[Tensor]:
        """This process's share of the weights that the optimizer moves, in float32."""
        zero = self.engine.optimizer
        return list(getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups)


def _compile_nothing() -> None:
    """Keep DeepSpeed from building its shared-memory collectives with whatever compiler is here: gloo's serve, and are pinned.

    The build leaves a lock when it is killed, and every later run would wait for that for ever.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
