"""What a run would cost, worked out without carrying it out: `train --dry-run`.

Sizes follow from the recipe. Hours rest on two rates of one GPU, both stated beside them: training is bound by arithmetic, while
generation waits for memory and reaches a far smaller share of what the GPU can do.
"""

import math
from dataclasses import dataclass

from spac_repro import engines, methods
from spac_repro.methods import Referenced
from spac_repro.recipe import ArchitectureSettings, Run, TrainingSettings

GPU = "an A100 80 GB at 40 % of its 312 TFLOP/s in bfloat16, and at 1.4 % where it generates"
TRAINING_RATE = 0.4 * 312e12  # operations a second [assumed]
# 50,000 responses of up to 256 tokens by a 7B model took eight of these GPUs 1.45 hours [SPIN].
GENERATION_RATE = 2 * 7.24e9 * 50_000 * 256 / (8 * 1.45 * 3600)


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; tokens are upper bounds, taken at the recipe's limits."""

    preferences: int | None
    optimiser_steps: int | None  # over all iterations; None where the number of preferences is not known yet
    start_steps: int
    parameters: int
    training_tokens: int | None
    generated_tokens: int | None
    memory_per_process: int  # bytes of weights, gradients and optimizer state; activations apart
    checkpoint: int  # bytes of one training state
    disk: int  # bytes: the kept training states with one being written, and every iterate's weights
    training_flops: float | None  # optimiser steps and reference log-probabilities
    generation_flops: float | None
    engine: str
    world_size: int

    @property
    def gpu_hours(self) -> float | None:
        """Hours of one GPU at the stated rates; evaluation apart."""
        if self.training_flops is None or self.generation_flops is None:
            return None
        return (self.training_flops / TRAINING_RATE + self.generation_flops / GENERATION_RATE) / 3600


def plan(run: Run, preferences: int | None) -> Plan:
    """The plan of a run on so many preferences (None: not known before they are read)."""
    recipe, training, data = run.recipe, run.recipe.training, run.recipe.data
    parameters = recipe.policy.num_parameters or _count(recipe.policy.architecture)
    weight = 2 if recipe.policy.dtype == "bfloat16" else 4
    memory, checkpoint = _training_state(training, parameters, weight)

    steps = tokens = generated = trained = None
    if preferences is not None:
        used = methods.get(run.method).responses
        steps = math.ceil(preferences / training.global_batch_size) * training.epochs_per_iteration * training.iterations
        sequence = data.max_prompt_tokens + data.max_response_tokens
        scored = preferences * training.iterations * len(used) * sequence
        tokens = scored * training.epochs_per_iteration
        generated = preferences * training.iterations * data.max_response_tokens if "selfplay" in used else 0
        # Forward once, backward twice that, and forward again where activations are not kept; references forward once.
        passes = 4 if training.gradient_checkpointing else 3
        trained = 2.0 * parameters * (passes * tokens + (scored if isinstance(run.method_settings, Referenced) else 0))
    start = recipe.supervised_start
    return Plan(
        preferences=preferences,
        optimiser_steps=steps,
        start_steps=math.ceil(start.num_demonstrations / start.global_batch_size) * start.epochs if start else 0,
        parameters=parameters,
        training_tokens=tokens,
        generated_tokens=generated,
        memory_per_process=memory,
        checkpoint=checkpoint,
        disk=checkpoint * (training.save_total_limit + 1) + (training.iterations + 1) * parameters * weight,
        training_flops=trained,
        generation_flops=None if generated is None else 2.0 * parameters * generated,
        engine=training.engine,
        world_size=training.processes,
    )


def _training_state(training: TrainingSettings, parameters: int, weight: int) -> tuple[int, int]:
    """Bytes of weights, gradients and optimizer state in the memory of one process, and bytes of one checkpoint."""
    states = {"adamw": 2, "rmsprop": 1}[training.optimizer]
    engine = engines.get(training.engine)
    # DeepSpeed keeps a float32 copy of bfloat16 weights, and its optimizer state in float32 with it.
    kept = 4 * (1 + states) if engine.shards_optimizer and weight == 2 else weight * states
    gradients = weight
    # ZeRO-3 shares everything out among the processes, ZeRO-2 all but the weights.
    whole, shared = (0, weight + gradients + kept) if engine.shards_weights else (weight, gradients + kept)
    memory = parameters * (whole + shared / (training.processes if engine.shards_optimizer else 1))
    return int(memory), parameters * (weight + kept)


def rows(plan: Plan) -> list[tuple[str, str]]:
    """The plan as (what, how much) for a table."""
    unknown = "not known before the preferences are read"

    def number(value: float | None, unit: str = "") -> str:
        return unknown if value is None else f"{value:,.0f}{unit}"

    hours = unknown if plan.gpu_hours is None else f"{_hours(plan.gpu_hours)} of {GPU}; evaluation apart"
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


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _count(shape: ArchitectureSettings | None) -> int:
    """The parameters of a Mistral with untied output layer over the built-in world's vocabulary."""
    from spac_repro.data.tokenizers import WORLD

    assert shape is not None  # the recipe's own check
    width, head = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
    attention = 2 * width * width + 2 * width * shape.num_key_value_heads * head
    layer = attention + 3 * width * shape.intermediate_size + 2 * width
    return shape.num_hidden_layers * layer + 2 * len(WORLD) * width + width
