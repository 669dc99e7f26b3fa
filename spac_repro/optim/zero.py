"""The engines of DeepSpeed: ZeRO divides optimizer state, gradients and, at stage 3, weights among the processes."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from spac_repro.optim import checkpoints, processes
from spac_repro.optim.engine import State


class Zero:
    """DeepSpeed's ZeRO, stage 2 or 3. Its own checkpoints are pickles; here each process's share goes into safetensors."""

    stage: ClassVar[int]

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path | None = None,
        *,
        max_grad_norm: float,
        bfloat16: bool = False,
    ) -> None:
        import deepspeed

        whole, share = checkpoints.read(checkpoint) if checkpoint else ({}, {})
        if whole:
            checkpoints.load_model(model, whole)  # before ZeRO shares the weights out
        _compile_nothing()
        half = next(model.parameters()).dtype == torch.bfloat16
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # nominal: how examples are weighted and cut up is decided in loop.py
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_grad_norm,
            "zero_optimization": {"stage": self.stage, "stage3_param_persistence_threshold": 10_000},
            "zero_allow_untested_optimizer": True,  # RMSProp
            "bf16": {"enabled": half},
            "torch_autocast": {"enabled": bfloat16 and not half, "dtype": "bfloat16"},
            "steps_per_print": 10**9,
        }
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        if share:
            self._load(share)

    @property
    def module(self) -> nn.Module:
        engine: nn.Module = self.engine
        return engine

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()  # DeepSpeed has an autocast of its own, and switches off another around it

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


class Zero2(Zero):
    """Gradients and optimizer state are divided among the processes."""

    stage = 2


class Zero3(Zero):
    """Weights, gradients and optimizer state are divided among the processes."""

    stage = 3


def _compile_nothing() -> None:
    """Keep DeepSpeed from building its shared-memory collectives with whatever compiler is here: gloo's serve, and are pinned.

    The build leaves a lock when it is killed, and every later run would wait for that for ever.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
