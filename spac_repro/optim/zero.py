"""DeepSpeed's ZeRO as training engines: optimizer state, gradients and, at stage 3, weights are sharded over the processes."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from spac_repro.optim import checkpoints, distributed
from spac_repro.optim.checkpoints import TrainingState


class Zero:
    """DeepSpeed's ZeRO, stage 2 or 3.

    DeepSpeed's own checkpoints are pickles; here every process's shard is a safetensors file.
    """

    stage: ClassVar[int]
    shards_weights: ClassVar[bool]

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

        # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 announces to remove.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        state = checkpoints.load(checkpoint) if checkpoint else None
        if state and not self.shards_weights:
            checkpoints.load_model(model, state.full)  # before ZeRO takes its float32 copy
        _disable_shared_memory_collectives()
        half = next(model.parameters()).dtype == torch.bfloat16
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # nominal: loop.py weights the examples and makes the micro-batches
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_grad_norm,
            "zero_optimization": {"stage": self.stage, "stage3_param_persistence_threshold": 10_000},
            "zero_allow_untested_optimizer": True,  # RMSProp
            "bf16": {"enabled": half},
            "torch_autocast": {"enabled": bfloat16 and not half, "dtype": "bfloat16"},
            "steps_per_print": 10**9,
        }
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        distributed.limit_waiting()
        if state and state.shard:
            self._load_shard(state.shard)

    @property
    def module(self) -> nn.Module:
        """DeepSpeed's engine, which wraps the policy."""
        engine: nn.Module = self.engine
        return engine

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: DeepSpeed has its own autocast, and disables one around it."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last_micro_batch: bool) -> None:
        """Accumulate the gradient; DeepSpeed averages it over processes, so the loss is multiplied by their number."""
        self.engine.set_gradient_accumulation_boundary(last_micro_batch)
        self.engine.backward(loss * distributed.world_size())

    def step(self, learning_rate: float) -> float:
        """Clip and step; returns the gradient norm before clipping."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def state(self) -> TrainingState:
        """Return this process's shard of float32 weights and optimizer state, and the full weights where they are not sharded.

        The sharded weights of stage 3 are the float32 weights, rounded: nothing is gathered for a checkpoint.
        """
        shard = {}
        for i, weights in enumerate(self._weight_shards()):
            shard[f"{i}.weights"] = weights.detach().contiguous()
            for name, value in self.engine.optimizer.optimizer.state.get(weights, {}).items():
                shard[f"{i}.state.{name}"] = torch.as_tensor(value).contiguous()
        return TrainingState({} if self.shards_weights else self.weights(), shard)

    def weights(self) -> dict[str, Tensor]:
        """Return the full weights on the main process, gathered parameter by parameter; an empty dict elsewhere."""
        import deepspeed

        full: dict[str, Tensor] = {}
        for name, parameter in self.engine.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                if distributed.is_main_process():
                    full[f"model.{name}"] = parameter.detach().cpu().clone()
        return full

    def close(self) -> None:
        """Let the engine go: the model's weights, too, are no longer usable. Python's next collection returns the memory."""
        self.engine.destroy()
        forget_engines()
        del self.engine

    def _load_shard(self, shard: dict[str, Tensor]) -> None:
        optimizer = self.engine.optimizer.optimizer
        steps_on_cpu = not any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
        for i, weights in enumerate(self._weight_shards()):
            weights.data.copy_(shard[f"{i}.weights"])
            prefix = f"{i}.state."
            names = [name for name in shard if name.startswith(prefix)]
            # Only the step count of an optimizer that is not fused, a scalar, is not on the weights' device.
            optimizer.state[weights] = {
                name.removeprefix(prefix): shard[name] if steps_on_cpu and not shard[name].dim() else shard[name].to(weights.device)
                for name in names
            }
        if self.shards_weights:
            self._round_weight_shards()

    def _round_weight_shards(self) -> None:
        """Set the weights that are computed with from the float32 weights; each process has all of a small parameter."""
        zero = self.engine.optimizer
        for weights, rounded in zip(self._weight_shards(), zero.fp16_partitioned_groups_flat, strict=True):
            rounded.data.copy_(weights.data)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def _weight_shards(self) -> list[Tensor]:
        """This process's flat float32 weights, one tensor per parameter group."""
        zero = self.engine.optimizer
        return list(getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups)


class Zero2(Zero):
    """ZeRO stage 2: gradients and optimizer state are sharded over the processes."""

    stage = 2
    shards_weights = False


class Zero3(Zero):
    """ZeRO stage 3: weights, gradients and optimizer state are sharded over the processes."""

    stage = 3
    shards_weights = True


def forget_engines() -> None:
    """Clear what DeepSpeed 0.19.8 keeps of every ZeRO-3 engine, even of a destroyed one, for as long as the process lives.

    A stack of the modules in their forward pass, which is never emptied of the model itself, and the cache of a method of the
    engine's parameter coordinator. Both are only used during a step, and one engine at a time is stepped here.
    """
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    for method in vars(Coordinator).values():
        for cell in getattr(method, "__closure__", None) or ():  # a decorator of DeepSpeed's hides the cached function
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


def _disable_shared_memory_collectives() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives; gloo's are used, and their version is pinned.

    A build that is killed leaves a lock, and every later run would wait for it forever.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
