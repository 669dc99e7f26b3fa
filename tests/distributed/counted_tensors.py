"""`spac-repro`; whenever training begins, each process appends the bytes of all its tensors to a file in $COUNTED_TENSORS.

A tensor is counted as long as Python has it, whatever keeps it; two that share memory are counted once. Where $DEEPSPEED_REMEMBERS
is set, DeepSpeed is left to keep what it keeps.
"""

import gc
import json
import os
from pathlib import Path

import torch

from spac_repro import cli, iteration
from spac_repro.optim import distributed, zero

right = iteration.training_loop


def num_bytes() -> int:
    storages = (each.untyped_storage() for each in gc.get_objects() if isinstance(each, torch.Tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def counted(build_engine, *arguments, **keywords):  # type: ignore[no-untyped-def]
    before = num_bytes()

    def build(checkpoint):  # type: ignore[no-untyped-def]
        engine = build_engine(checkpoint)
        state = engine.state()  # the shard has the float32 weights, beside which there are gradients, buckets and the weights
        parameters = list(engine.module.parameters())
        found = {
            "before": before,
            "engine": sum(tensor.nbytes for tensor in state.shard.values()),
            "partitioned": sum(getattr(each, "ds_numel", 0) for each in parameters if not getattr(each, "ds_persist", True)),
        }
        with (Path(os.environ["COUNTED_TENSORS"]) / f"{distributed.rank()}.jsonl").open("a") as file:
            print(json.dumps(found), file=file)
        return engine

    return right(build, *arguments, **keywords)


iteration.training_loop = counted
if "DEEPSPEED_REMEMBERS" in os.environ:
    zero.forget_engines = lambda: None

if __name__ == "__main__":
    cli.main()
