"""Estimate what a run costs from its recipe, without computing any of it: `train --dry-run`.

Sizes follow from the recipe. GPU hours follow from two throughputs of one GPU, which the estimate states: training is
compute-bound; generation is memory-bound and reaches a much smaller share of the peak.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from spac_repro import engines, methods
from spac_repro.errors import UserError
from spac_repro.methods import ReferenceMethodSettings
from spac_repro.policy_settings import ArchitectureSettings, PolicySettings
from spac_repro.recipe import Recipe, Run, TrainingSettings
from spac_repro.runs import disk as disk_space

GPU = "an A100 80 GB at 40 % of its 312 TFLOP/s in bfloat16 for training, and 1.4 % for generation"
TRAINING_FLOPS_PER_SECOND = 0.4 * 312e12  # [assumed]
# 50,000 responses of up to 256 tokens by a 7B model took eight of these GPUs 1.45 hours [SPIN].
GENERATION_FLOPS_PER_SECOND = 2 * 7.24e9 * 50_000 * 256 / (8 * 1.45 * 3600)
# Four bits a weight, 8 for each block of 64, and 32 for each 256 of these (Dettmers et al. 2023, arXiv 2305.14314, 3). The
# embedding and the output layer stay in 16 bits, which is not counted: 0.4 GB of a 7B model.
_FOUR_BIT_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True)
class CostEstimate:
    """Steps, tokens, bytes and FLOPs of a run; None where the number of preference pairs is unknown.

    Tokens are upper bounds: every prompt and response is counted at the recipe's maximum length.
    """

    preferences: int | None
    optimizer_steps: int | None  # over all iterations, without the supervised start
    start_steps: int  # optimizer steps of the supervised start
    parameters: int
    trained: int  # of these; with an adapter, its own parameters
    training_tokens: int | None
    generated_tokens: int | None
    memory_per_process: int  # bytes of weights, gradients and optimizer state, without activations
    checkpoint: int  # bytes of one checkpoint
    disk: int  # bytes: the checkpoints kept and one being written, and the weights of every iterate
    training_flops: float | None  # optimizer steps and reference log-probabilities
    generation_flops: float | None
    engine: str
    world_size: int

    @property
    def gpu_hours(self) -> float | None:
        """GPU hours of training and generation at the throughputs above, without evaluation."""
        if self.training_flops is None or self.generation_flops is None:
            return None
        return (self.training_flops / TRAINING_FLOPS_PER_SECOND + self.generation_flops / GENERATION_FLOPS_PER_SECOND) / 3600


def estimate(run: Run, preferences: int | None) -> CostEstimate:
    """Estimate the cost of a run.

    Args:
        run: recipe and method.
        preferences: the number of preference pairs; None if it is unknown before they are read.

    Raises:
        UserError: the recipe does not say how many parameters the policy has.
    """
    recipe, training, data = run.recipe, run.recipe.training, run.recipe.data
    adapter = recipe.policy.adapter
    parameters, trained = _number_of_parameters(recipe.policy), _number_of_trained_parameters(recipe.policy)
    if parameters is None or trained is None:
        if parameters is None:
            what, setting = "policy is unknown before it is read", "policy.num_parameters"
        else:
            what, setting = "adapter is unknown before the policy is read", "policy.adapter.num_parameters"
        raise UserError(f"the size of the {what}; write it into the recipe as {setting}, or name a model folder with --policy")
    bytes_per_weight = bytes_of_weight(recipe)
    memory, checkpoint = training_state(recipe, parameters, trained)

    steps = tokens = generated_tokens = training_flops = None
    if preferences is not None:
        responses = methods.get(run.method).responses
        steps = math.ceil(preferences / training.global_batch_size) * training.epochs_per_iteration * training.iterations
        sequence = data.max_prompt_tokens + data.max_response_tokens
        scored_tokens = preferences * training.iterations * len(responses) * sequence
        tokens = scored_tokens * training.epochs_per_iteration
        generated_tokens = preferences * training.iterations * data.max_response_tokens if "selfplay" in responses else 0
        # A forward pass counts 1, a backward pass 2: gradients of activations and of weights. Frozen weights have no gradients.
        # Activation checkpointing adds a forward pass. The reference policy needs one forward pass.
        passes = (4 if training.gradient_checkpointing else 3) - (1 if adapter else 0)
        training_flops = (
            2.0
            * parameters
            * (passes * tokens + (scored_tokens if isinstance(run.method_settings, ReferenceMethodSettings) else 0))
        )
    start = recipe.supervised_start
    return CostEstimate(
        preferences=preferences,
        optimizer_steps=steps,
        start_steps=math.ceil(start.num_demonstrations / start.global_batch_size) * start.epochs if start else 0,
        parameters=parameters,
        trained=trained,
        training_tokens=tokens,
        generated_tokens=generated_tokens,
        memory_per_process=memory,
        checkpoint=checkpoint,
        disk=checkpoint * (training.save_total_limit + 1)
        + (parameters * bytes_per_weight if adapter else 0)
        + (training.iterations + (0 if adapter else 1)) * trained * (4 if adapter else bytes_per_weight),
        training_flops=training_flops,
        generation_flops=None if generated_tokens is None else 2.0 * parameters * generated_tokens,
        engine=training.engine,
        world_size=training.processes,
    )


def bytes_of_weight(recipe: Recipe) -> int:
    """Bytes of one of the policy's weights, as they are computed with."""
    return 2 if recipe.policy.dtype == "bfloat16" else 4


def has_known_size(run: Run) -> bool:
    """Whether the numbers of the policy's and its adapter's parameters are known: from the recipe, a folder or the hub's cache."""
    policy = run.recipe.policy
    return _number_of_parameters(policy) is not None and _number_of_trained_parameters(policy) is not None


def _number_of_parameters(policy: PolicySettings) -> int | None:
    """The number that the recipe states, that follows from the architecture, or of a model that is at hand; None: unknown."""
    if policy.num_parameters or policy.architecture:
        return policy.num_parameters or _count_parameters(policy.architecture)
    from spac_repro.model import folder_identity

    folder = _folder(policy)
    return None if folder is None else folder_identity.number_of_parameters(folder)


def _folder(policy: PolicySettings) -> Path | None:
    """The policy's own folder, or that in the hub's cache; None where there is none that can be trusted."""
    if policy.source not in ("folder", "hub"):
        return None
    from spac_repro.model import trusted_folder

    try:
        if policy.source == "folder":
            folder = Path(policy.name)
        else:
            from spac_repro.data import hub

            folder = hub.snapshot(policy.name, policy.revision, local_files_only=True)
        trusted_folder.check_folder(folder)
    except UserError:
        return None
    return folder


def _number_of_trained_parameters(policy: PolicySettings) -> int | None:
    """The policy's parameters, or those of its adapter: A [rank, in] and B [out, rank], over all targets of all layers."""
    adapter, shape = policy.adapter, policy.architecture
    if adapter is None:
        return _number_of_parameters(policy)
    if adapter.num_parameters:
        return adapter.num_parameters
    if shape is None:
        from spac_repro.model import folder_identity

        folder = _folder(policy)
        return None if folder is None else adapter.rank * folder_identity.summed_widths(folder, adapter.targets)
    keys = shape.num_key_value_heads * (shape.hidden_size // shape.num_attention_heads)
    widths = {
        **dict.fromkeys(("q_proj", "o_proj"), 2 * shape.hidden_size),
        **dict.fromkeys(("k_proj", "v_proj"), shape.hidden_size + keys),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), shape.hidden_size + shape.intermediate_size),
    }
    return adapter.rank * shape.num_hidden_layers * sum(widths.get(target, 0) for target in set(adapter.targets))


def bytes_of_loaded_weight(recipe: Recipe) -> float:
    """Bytes of one of the policy's weights in memory: of a base in four bits they are fewer than it is computed with."""
    adapter = recipe.policy.adapter
    return _FOUR_BIT_BYTES if adapter and adapter.base_bits else bytes_of_weight(recipe)


def training_state(recipe: Recipe, parameters: int, trained: int) -> tuple[int, int]:
    """Return the bytes of weights, gradients and optimizer state in one process, and those of one checkpoint.

    Args:
        recipe: the recipe.
        parameters: of the policy.
        trained: parameters that are trained: the policy's, or those of its adapter.
    """
    adapter, bytes_per_weight = recipe.policy.adapter, bytes_of_weight(recipe)
    memory, checkpoint = _training_state(recipe.training, trained, 4 if adapter else bytes_per_weight)
    if adapter:
        memory += int(parameters * bytes_of_loaded_weight(recipe))
    return memory, checkpoint


def _training_state(training: TrainingSettings, parameters: int, bytes_per_weight: int) -> tuple[int, int]:
    """(bytes of weights, gradients and optimizer state in one process, bytes of one checkpoint)."""
    states = {"adamw": 2, "rmsprop": 1}[training.optimizer]
    engine = engines.get(training.engine)
    # Every engine keeps a float32 copy of bfloat16 weights, and its optimizer state in float32 with it.
    optimizer = 4 * (states + (bytes_per_weight == 2))
    # The replicated engine adds the gradients of every micro-batch to a sum in float32.
    gradients = bytes_per_weight + (4 if bytes_per_weight == 2 and not engine.shards_optimizer else 0)
    # ZeRO-3 shards everything, ZeRO-2 everything but the weights.
    replicated, sharded = (0, bytes_per_weight) if engine.shards_weights else (bytes_per_weight, 0)
    sharded += gradients + optimizer
    memory = parameters * (replicated + sharded / (training.processes if engine.shards_optimizer else 1))
    # A checkpoint holds the weights unless they are sharded, and the float32 weights that the optimizer changes where they differ.
    whole = 0 if engine.shards_weights else bytes_per_weight
    changed = 4 if engine.shards_optimizer or bytes_per_weight == 2 else 0
    return int(memory), parameters * (whole + changed + 4 * states)


def table_rows(cost: CostEstimate) -> list[tuple[str, str]]:
    """Return the estimate as (quantity, value) rows of a table."""
    unknown = "unknown until the preference pairs are read"

    def number(value: float | None, unit: str = "") -> str:
        return unknown if value is None else f"{value:,.0f}{unit}"

    hours = unknown if cost.gpu_hours is None else f"{_hours(cost.gpu_hours)} of {GPU}; without evaluation"
    return [
        ("preference pairs", number(cost.preferences)),
        ("optimizer steps of the supervised start", number(cost.start_steps)),
        ("optimizer steps", number(cost.optimizer_steps)),
        ("training tokens, at most", number(cost.training_tokens)),
        ("generated tokens, at most", number(cost.generated_tokens)),
        ("parameters", number(cost.parameters)),
        *([("parameters of the adapter", number(cost.trained))] if cost.trained != cost.parameters else []),
        (
            "memory per process (weights, gradients and optimizer state, without activations)",
            disk_space.size(cost.memory_per_process),
        ),
        ("one checkpoint", disk_space.size(cost.checkpoint)),
        ("disk, at most", disk_space.size(cost.disk)),
        ("GPU hours, estimated", hours),
        ("engine", f"{cost.engine}, world size {cost.world_size}"),
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _count_parameters(shape: ArchitectureSettings | None) -> int:
    """The parameters of a Mistral over the built-in world's vocabulary, with an untied output layer."""
    from spac_repro.data.tokenizers import WORLD_VOCABULARY

    assert shape is not None  # the recipe was checked for it
    width, head = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
    attention = 2 * width * width + 2 * width * shape.num_key_value_heads * head
    layer = attention + 3 * width * shape.intermediate_size + 2 * width
    return shape.num_hidden_layers * layer + 2 * len(WORLD_VOCABULARY) * width + width
