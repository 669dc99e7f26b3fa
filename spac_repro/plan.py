"""What a run would cost, worked out without carrying it out: `train --dry-run`."""

import math
from dataclasses import dataclass

from spac_repro.recipe import USED, Architecture, Referenced, Run

GPU = "one A100 80 GB at 40 % of its 312 TFLOP/s in bfloat16"
GPU_FLOPS = 0.4 * 312e12


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; tokens are upper bounds, taken at the recipe's limits."""

    preferences: int | None
    optimiser_steps: int | None  # over all iterations; None where the number of preferences is not known yet
    start_steps: int
    parameters: int
    training_tokens: int | None
    generated_tokens: int | None
    memory_per_process: int  # bytes of weights, gradients and optimizer state
    checkpoint: int  # bytes of one training state
    disk: int  # bytes: the kept training states, and every iterate's weights
    flops: float | None
    engine: str
    world_size: int

    @property
    def gpu_hours(self) -> float | None:
        """Hours of the stated GPU, from the operations alone."""
        return None if self.flops is None else self.flops / GPU_FLOPS / 3600


def plan(run: Run, preferences: int | None) -> Plan:
    """The plan of a run on so many preferences (None: not known before they are read)."""
    recipe, training, data = run.recipe, run.recipe.training, run.recipe.data
    parameters = recipe.policy.parameters or _count(recipe.policy.architecture)
    weight = 2 if recipe.policy.dtype == "bfloat16" else 4
    states = {"adamw": 2, "rmsprop": 1}[training.optimizer]
    sharded = training.processes if training.engine.startswith("deepspeed") else 1
    # ZeRO-3 shares everything out among the processes, ZeRO-2 all but the weights.
    trained = parameters * (weight + 4 * states) + (parameters * 4 if weight == 2 else 0)  # fp32 master weights beside bf16
    whole = parameters * weight if training.engine != "deepspeed-zero3" else parameters * weight / sharded
    memory = int(whole + trained / sharded)
    checkpoint = int(trained)

    steps = tokens = generated = flops = None
    if preferences is not None:
        used = USED[run.method]
        steps = math.ceil(preferences / training.batch_size) * training.epochs * training.iterations
        sequence = data.longest_prompt + data.longest_response
        tokens = preferences * training.epochs * training.iterations * len(used) * sequence
        generated = preferences * training.iterations * data.longest_response if "selfplay" in used else 0
        scored = preferences * training.iterations * len(used) * sequence if isinstance(run.objective, Referenced) else 0
        flops = 2.0 * parameters * (3 * tokens + generated + scored)
    start = recipe.start
    return Plan(
        preferences=preferences,
        optimiser_steps=steps,
        start_steps=math.ceil(start.demonstrations / start.batch_size) * start.epochs if start else 0,
        parameters=parameters,
        training_tokens=tokens,
        generated_tokens=generated,
        memory_per_process=memory,
        checkpoint=checkpoint,
        disk=checkpoint * training.checkpoints_kept + (training.iterations + 1) * parameters * weight,
        flops=flops,
        engine=training.engine,
        world_size=training.processes,
    )


def rows(plan: Plan) -> list[tuple[str, str]]:
    """The plan as (what, how much) for a table."""
    unknown = "not known before the preferences are read"

    def number(value: float | None, unit: str = "") -> str:
        return unknown if value is None else f"{value:,.0f}{unit}"

    hours = (
        unknown
        if plan.gpu_hours is None
        else f"{plan.gpu_hours:,.2g} (training, self-play and references on {GPU}; evaluation apart)"
    )
    return [
        ("preferences", number(plan.preferences)),
        ("supervised steps", number(plan.start_steps)),
        ("optimiser steps", number(plan.optimiser_steps)),
        ("training tokens, at most", number(plan.training_tokens)),
        ("generated tokens, at most", number(plan.generated_tokens)),
        ("parameters", number(plan.parameters)),
        ("memory a process (weights, gradients, optimizer; activations apart)", _size(plan.memory_per_process)),
        ("one checkpoint", _size(plan.checkpoint)),
        ("disk at most", _size(plan.disk)),
        ("GPU hours, estimated", hours),
        ("engine", f"{plan.engine}, world size {plan.world_size}"),
    ]


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _count(shape: Architecture | None) -> int:
    """The parameters of a Mistral with untied output layer over the built-in world's vocabulary."""
    from spac_repro.preferences.world import CHARACTERS, TASKS

    assert shape is not None  # the recipe's own check
    vocabulary = 3 + len(TASKS) + len(CHARACTERS)
    width, head = shape.hidden_size, shape.hidden_size // shape.heads
    attention = 2 * width * width + 2 * width * shape.key_value_heads * head
    layer = attention + 3 * width * shape.intermediate_size + 2 * width
    return shape.layers * layer + 2 * vocabulary * width + width
