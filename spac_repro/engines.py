"""The registry of training engines. An engine takes an optimizer step over all processes.

To add an engine: write a class that implements `optim.engine.Engine`, and an entry here. A plugin registers its entry by an entry
point in the group `ENTRY_POINT_GROUP`. This module does not import torch.
"""

from dataclasses import dataclass

from spac_repro.registry import Registry

ENTRY_POINT_GROUP = "spac_repro.engines"  # of plugins


@dataclass(frozen=True)
class EngineSpec:
    """The properties of an engine. Other modules read them here and never test the engine's name."""

    name: str  # as in `training.engine`
    summary: str
    implementation: str  # "module:class"
    needs_process_group: bool  # also with one process, so that `train` starts its processes itself
    shards_optimizer: bool  # gradients and optimizer state are sharded over the processes
    shards_weights: bool  # weights are sharded too, so that every process must take part in every forward pass


_BUILTIN = (
    EngineSpec(
        name="accelerate",
        summary="data parallel: every process holds all weights; gradients are summed over the processes",
        implementation="spac_repro.optim.replicated:Replicated",
        needs_process_group=False,
        shards_optimizer=False,
        shards_weights=False,
    ),
    EngineSpec(
        name="deepspeed-zero2",
        summary="DeepSpeed ZeRO stage 2: gradients and optimizer state are sharded",
        implementation="spac_repro.optim.zero:Zero2",
        needs_process_group=True,
        shards_optimizer=True,
        shards_weights=False,
    ),
    EngineSpec(
        name="deepspeed-zero3",
        summary="DeepSpeed ZeRO stage 3: weights are sharded too",
        implementation="spac_repro.optim.zero:Zero3",
        needs_process_group=True,
        shards_optimizer=True,
        shards_weights=True,
    ),
)
REPLICATED = _BUILTIN[0]

_ENGINES: Registry[EngineSpec] = Registry("engine", ENTRY_POINT_GROUP, EngineSpec)
names, get, origin = _ENGINES.names, _ENGINES.get, _ENGINES.origin
for _engine in _BUILTIN:
    _ENGINES.register(_engine)
_ENGINES.load_plugins()
