"""Memory of a process by stage, from the shape of the policy: `train --dry-run`. Arithmetic, which `rehearse` measures.

An iteration has three stages with different needs, and leaves nothing of one for the next: a process needs the largest. All lines
of a stage are added as if they came at the same moment, which they do not.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from spac_repro import cost, engines
from spac_repro.errors import UserError
from spac_repro.recipe import Recipe, Run

BF16, FP32 = 2, 4  # bytes
# DeepSpeed's defaults, in elements.
MAX_LIVE_PARAMETERS, REDUCE_BUCKET = 1_000_000_000, 500_000_000
MAX_LOGITS = 2**26  # as in model/logprobs.py, which imports torch
MASK_STRIP = 1024  # queries of a strip, as in model/block_mask.py, which imports torch
BLOCK_MASK_BYTES = 33  # per query of a strip and key while FlexAttention's block mask is made; measured on the CPU at 16,384 tokens
CONTEXT = 2.0e9  # of the CUDA context, NCCL's buffers and compiled kernels, per process [assumed]
FRAGMENTATION = 0.1  # of the device memory in use [assumed]


@dataclass(frozen=True)
class Widths:
    """The shape of a policy, under the names of transformers' configurations."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    @property
    def parameters(self) -> int:
        """Parameters of a Mistral with an output layer of its own."""
        width, keys = self.hidden_size, self.num_key_value_heads * (self.hidden_size // self.num_attention_heads)
        layer = 2 * width * width + 2 * width * keys + 3 * width * self.intermediate_size + 2 * width
        return self.num_hidden_layers * layer + 2 * self.vocab_size * width + width


MISTRAL_7B = Widths(4096, 14_336, 32, 32, 8, 32_000)  # the published shape, which is the default of transformers' MistralConfig


@dataclass(frozen=True)
class Line:
    """A quantity with its arithmetic."""

    what: str
    arithmetic: str
    value: float


def widths(recipe: Recipe) -> Widths | None:
    """The shape of a recipe's policy, from the recipe or a model folder on this machine; None where it is not at hand."""
    policy = recipe.policy
    if policy.architecture is not None:
        from spac_repro.data.tokenizers import WORLD_VOCABULARY

        its = policy.architecture
        heads = its.num_attention_heads, its.num_key_value_heads
        return Widths(its.hidden_size, its.intermediate_size, its.num_hidden_layers, *heads, len(WORLD_VOCABULARY))
    if policy.num_parameters == MISTRAL_7B.parameters:
        return MISTRAL_7B
    if policy.source == "package":
        return None
    from spac_repro.data import hub

    try:
        own = policy.source == "folder"
        folder = Path(policy.name) if own else hub.snapshot(policy.name, policy.revision, local_files_only=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return Widths(
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=int(heads),
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            vocab_size=int(config["vocab_size"]),
        )
    except (UserError, OSError, ValueError, LookupError, TypeError):
        return None


def stages(run: Run) -> list[tuple[str, list[Line]]]:
    """The lines of each stage; empty where the shape of the policy is not at hand."""
    shape = widths(run.recipe)
    if shape is None or not cost.has_known_size(run):
        return []
    return [
        ("self-play", generation(run, shape)),
        ("reference log-probabilities", reference(run, shape)),
        ("training", training(run, shape)),
    ]


def peak(lines: list[Line]) -> float:
    """All lines at the same time, with a GPU's context and fragmentation."""
    return sum(line.value for line in lines) * (1 + FRAGMENTATION) + CONTEXT


def activation_elements(shape: Widths) -> int:
    """Elements of 2 bytes per token that a decoder layer keeps for its backward pass in bfloat16."""
    width, inner, heads = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads
    head = width // heads
    # Of each norm the input in float32, the normalised values, the output, and a float32 number; queries and attention's output.
    norms, attention = 2 * (2 + 1 + 1) * width + 2 * 2, 2 * width
    key_values, rotary, sums = 2 * shape.num_key_value_heads * head, 2 * head, 2 * heads
    return norms + attention + key_values + rotary + sums + 4 * inner


def key_values_per_token(shape: Widths, bytes_of_value: int = BF16) -> int:
    """Bytes of a token in the key-value cache."""
    head = shape.hidden_size // shape.num_attention_heads
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * head * bytes_of_value


def training(run: Run, shape: Widths) -> list[Line]:
    """Memory of one process during training."""
    settings, found = run.recipe.training, cost.estimate(run, None)
    engine, width, n, tokens = engines.get(settings.engine), shape.hidden_size, found.parameters, settings.micro_batch_tokens
    size, layers = _bytes_of_value(run.recipe), shape.num_hidden_layers
    layer = size * tokens * activation_elements(shape)
    lines = [_state(run, found)]
    if engine.shards_optimizer and size == BF16:
        value = FP32 * n / settings.processes
        lines.append(Line("gradients in float32, during the optimizer's step", f"4 B × {n:,} / {settings.processes}", value))
    if engine.shards_weights:
        lines.append(_limited("gathered weights of layers", size, MAX_LIVE_PARAMETERS, n, "DeepSpeed's limit"))
    if engine.shards_optimizer:
        lines.append(_limited("gradients on their way to other GPUs", size, REDUCE_BUCKET, n, "DeepSpeed's bucket"))
    if settings.gradient_checkpointing:
        lines += [
            Line("inputs of all layers", f"{size} B × {layers} × {tokens:,} × {width:,}", size * layers * tokens * width),
            Line("one layer, computed again", f"{size} B × {tokens:,} × {activation_elements(shape):,}", layer),
        ]
    else:
        arithmetic = f"{size} B × {layers} × {tokens:,} × {activation_elements(shape):,}"
        lines.append(Line("values of all layers", arithmetic, layers * layer))
    lines.append(Line("gradients of that layer's values, at most", "as much again", layer))
    logits = tokens * shape.vocab_size if engine.shards_weights else min(tokens * shape.vocab_size, MAX_LOGITS)
    shown = f"{tokens:,} × {shape.vocab_size:,}" if engine.shards_weights else f"{logits:,}"
    lines.append(Line("logits and their gradient, at most", f"(4 + {size}) B × {shown}", (FP32 + size) * logits))
    return lines + _mask(run.recipe)


def generation(run: Run, shape: Widths) -> list[Line]:
    """Memory of one process during self-play."""
    data, size = run.recipe.data, _bytes_of_value(run.recipe)
    rows = run.recipe.selfplay.decode_batch_size or run.recipe.selfplay.prompts_per_seed
    longest, per_token = data.max_prompt_tokens + data.max_response_tokens, key_values_per_token(shape, size)
    return [
        _weights(run),
        Line("key-value cache", f"{rows} × {longest:,} × {per_token:,} B", rows * longest * per_token),
        Line(
            "a layer's values while prompts are read",
            f"{size} B × {rows} × {data.max_prompt_tokens} × {_widest(shape):,}",
            size * rows * data.max_prompt_tokens * _widest(shape),
        ),
    ]


def reference(run: Run, shape: Widths) -> list[Line]:
    """Memory of one process during the reference log-probabilities."""
    tokens, size = run.recipe.training.micro_batch_tokens, _bytes_of_value(run.recipe)
    return [
        _weights(run),
        Line("a layer's values", f"{size} B × {tokens:,} × {_widest(shape):,}", size * tokens * _widest(shape)),
        Line("logits at once, at most", f"(4 + {size}) B × {MAX_LOGITS:,}", (FP32 + size) * MAX_LOGITS),
        *_mask(run.recipe),
    ]


def _state(run: Run, found: cost.CostEstimate) -> Line:
    training = run.recipe.training
    arithmetic = f"{training.engine}, {training.optimizer}"
    if found.engine == "deepspeed-zero3" and training.optimizer == "rmsprop" and _bytes_of_value(run.recipe) == BF16:
        arithmetic = f"(2 + 2 + 4 + 4) B × {found.parameters:,} / {training.processes}"
    what = "weights, gradients, float32 copy, optimizer state"
    return Line(what, arithmetic, found.memory_per_process)


def _limited(what: str, size: int, limit: int, parameters: int, whose: str) -> Line:
    number = min(limit, parameters)
    return Line(what, f"{size} B × {number:,} ({whose})", size * number)


def _weights(run: Run) -> Line:
    n, size = cost.estimate(run, None).parameters, cost.bytes_of_loaded_weight(run.recipe)
    return Line("weights", f"{size:.3g} B × {n:,}", size * n)


def _mask(recipe: Recipe) -> list[Line]:
    """The block mask of packed attention, which only GPUs make."""
    tokens = recipe.training.micro_batch_tokens
    if recipe.training.device != "cuda":
        return []
    arithmetic = f"{BLOCK_MASK_BYTES} B × {MASK_STRIP:,} × {tokens:,}"
    return [Line("block mask, while it is made", arithmetic, BLOCK_MASK_BYTES * MASK_STRIP * tokens)]


def _widest(shape: Widths) -> int:
    return 3 * shape.intermediate_size + 2 * shape.hidden_size


def _bytes_of_value(recipe: Recipe) -> int:
    return BF16 if "bfloat16" in (recipe.training.compute_dtype, recipe.policy.dtype) else FP32


def table_rows(run: Run) -> list[tuple[str, float]]:
    """The memory of each stage: (its name, bytes), at most; on a CPU without the libraries of the process itself."""
    gpu = run.recipe.training.device == "cuda"
    return [(name, peak(lines) if gpu else sum(line.value for line in lines)) for name, lines in stages(run)]
