"""The engines, one entry each: what takes an optimizer step over all processes, and what others must know of it.

To add an engine: a class in optim/ that fulfils `optim.engine.Engine`, and an entry here. Another Python distribution does the same
without touching this package, under the entry point group `ENTRY_POINT_GROUP`. Torch is not imported here.
"""

from dataclasses import dataclass

from spac_repro.registry import Registry

ENTRY_POINT_GROUP = "spac_repro.engines"  # the entry points of engines from outside


@dataclass(frozen=True)
class EngineSpec:
    """An engine's facts; others ask for them here and never read its name."""

    name: str  # as in `training.engine`
    summary: str
    implementation: str  # "module:class"
    needs_process_group: bool  # even for one process, so that `train` starts its processes itself
    shards_optimizer: bool  # gradients and optimizer state are divided among the processes …
    shards_weights: bool  # … and the weights too, so that every process must take part in every forward pass


_OWN = (
    EngineSpec(
        name="accelerate",
        summary="every process holds everything; gradients are summed over the processes",
        implementation="spac_repro.optim.replicated:Replicated",
        needs_process_group=False,
        shards_optimizer=False,
        shards_weights=False,
    ),
    EngineSpec(
        name="deepspeed-zero2",
        summary="DeepSpeed's ZeRO stage 2: gradients and optimizer state are divided",
        implementation="spac_repro.optim.zero:Zero2",
        needs_process_group=True,
        shards_optimizer=True,
        shards_weights=False,
    ),
    EngineSpec(
        name="deepspeed-zero3",
        summary="DeepSpeed's ZeRO stage 3: the weights are divided too",
        implementation="spac_repro.optim.zero:Zero3",
        needs_process_group=True,
        shards_optimizer=True,
        shards_weights=True,
    ),
)
REPLICATED = _OWN[0]

_ENGINES: Registry[EngineSpec] = Registry("engine", ENTRY_POINT_GROUP, EngineSpec)
names, get, origin = _ENGINES.names, _ENGINES.get, _ENGINES.origin
for _engine in _OWN:
    _ENGINES.register(_engine)
_ENGINES.load_plugins()
