"""`spac-repro`; of every training each process appends a line to a file in $COUNTED_TENSORS.

It says the bytes of all tensors before it, which parameters were partitioned, and how many micro-batches and passes there were. A
tensor is counted as long as Python has it, whatever keeps it; two that share memory are counted once. Where $DEEPSPEED_REMEMBERS is
set, DeepSpeed is left to keep what it keeps. At its end each process says in a file of its own whether it is still connected.
"""

import atexit
import gc
import json
import os
from pathlib import Path
from typing import Any

import torch

from spac_repro import cli, iteration
from spac_repro.model import logprobs
from spac_repro.optim import distributed, zero

right = iteration.training_loop


def num_bytes() -> int:
    storages = (each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), torch.Tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def counted(build_engine, make_objective, schedule, **keywords):  # type: ignore[no-untyped-def]
    found: dict[str, Any] = {"before": num_bytes(), "layer_passes": 0}

    def count(*_):  # type: ignore[no-untyped-def]
        found["layer_passes"] += 1

    handle = build_engine.model.model.base_model.layers[0].mlp.gate_proj.register_forward_pre_hook(count)

    def build(checkpoint):  # type: ignore[no-untyped-def]
        engine = build_engine(checkpoint)
        found["engine"] = sum(tensor.nbytes for tensor in engine.state().shard.values())  # float32 weights and optimizer state
        names = [name for name, each in engine.module.named_parameters() if not getattr(each, "ds_persist", True)]
        found["partitioned"] = {name: getattr(engine.module.get_parameter(name), "ds_numel", 0) for name in names}
        return engine

    engine = right(build, make_objective, schedule, **keywords)
    handle.remove()
    rank, world_size = distributed.rank(), distributed.world_size()
    found["micro_batches"] = [len(schedule.micro_batches(step, rank, world_size)) for step in range(schedule.total_steps)]
    found["passes"] = sum(schedule.max_micro_batches(step, world_size) for step in range(schedule.total_steps))
    with (Path(os.environ["COUNTED_TENSORS"]) / f"{rank}.jsonl").open("a") as file:
        print(json.dumps(found), file=file)
    return engine


def tell_connection() -> None:
    left = Path(os.environ["COUNTED_TENSORS"]) / f"{os.environ['RANK']}.connected"
    left.write_text(str(torch.distributed.is_initialized()))


atexit.register(tell_connection)
gc.disable()  # Python collects cycles when it likes; what counts is what the run itself collects
iteration.training_loop = counted
# 21 tokens of SmolLM2's vocabulary: processes have unequally many chunks, where there are any.
logprobs.token_logprobs.__kwdefaults__["max_logits"] = 2**20
if "DEEPSPEED_REMEMBERS" in os.environ:
    zero.forget_engines = lambda: None

if __name__ == "__main__":
    cli.main()
