"""The engines, one entry each: what takes an optimiser step over all processes, and what others must know of it.

To add an engine: a class in optim/ that fulfils `optim.engine.Engine`, and an entry here. Torch is not imported here.
"""

from dataclasses import dataclass

from spac_repro.errors import UserError


@dataclass(frozen=True)
class EngineSpec:
    """An engine's facts; others ask for them here and never read its name."""

    name: str  # as in `training.engine`
    summary: str
    implementation: str  # "module:class"
    needs_process_group: bool  # even for one process, so that `train` starts its processes itself
    shards_optimizer: bool  # gradients and optimizer state are divided among the processes …
    shards_weights: bool  # … and the weights too, so that every process must take part in every forward pass


_ENGINES = (
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
REPLICATED = _ENGINES[0]


def names() -> tuple[str, ...]:
    """Every engine's name."""
    return tuple(engine.name for engine in _ENGINES)


def get(name: str) -> EngineSpec:
    """An engine by its name.

    Raises:
        UserError: there is none.
    """
    for engine in _ENGINES:
        if engine.name == name:
            return engine
    raise UserError(f"unknown engine {name!r}; the engines are {', '.join(names())}")
