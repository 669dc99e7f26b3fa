"""Supported architectures: models that would silently give other numbers in batches are refused or not packed.

Sampling pads prompts on the left, and log-probabilities are computed with several prompts in one packed sequence. Neither may
change the result of any response.
"""

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from spac_repro.errors import UserError

# Architectures for which packing is exact: their attention passes transformers' keyword arguments on to its backend, and their
# logits are the output layer of the last hidden state, at most soft-capped. Tests check each of them.
PACKING_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt_neox")
# Of these, transformers has no sdpa for Gemma 2, whose attention logits are soft-capped; packed attention computes them.
WITHOUT_SDPA = frozenset({"gemma2"})
# Rotary embeddings whose frequencies do not depend on length. With the others (`dynamic`, `longrope`), the longest row of a batch
# determines the frequencies of all its rows.
FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def packs_exactly(config: Any) -> bool:
    """Whether packing several prompts into one sequence changes no result."""
    return (
        config.model_type in PACKING_ARCHITECTURES
        and not getattr(config, "attention_dropout", 0)
        and not getattr(config, "use_bidirectional_attention", None)
        and length_limit(config) is None
    )


def attention_to_load(model_type: str, attention: str) -> str:
    """Return the attention to load a model with, before packed attention replaces it where it can."""
    return "eager" if attention == "sdpa" and model_type in WITHOUT_SDPA else attention


def final_softcap(config: Any) -> float | None:
    """Return the bound c of c·tanh(logits/c), which the output layer's logits pass in Gemma 2; None: no bound."""
    bound = getattr(config, "final_logit_softcapping", None)
    return None if bound is None else float(bound)


def has_state(model: PreTrainedModel) -> bool:
    """Whether a layer keeps a state that left padding would change, as in recurrent, convolutional and hybrid models."""
    layers = getattr(model.config, "layer_types", None) or ()
    return bool(getattr(model, "_is_stateful", False)) or not ATTENTION_LAYERS.issuperset(layers)


def length_limit(config: Any) -> int | None:
    """Return the number of tokens up to which rotary embeddings do not depend on the batch; None: they never do."""
    if FIXED_ROPE.issuperset(_rope_types(config)):
        return None
    parameters = getattr(config, "rope_parameters", None) or {}
    original = parameters.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or config.max_position_embeddings)


def batches_exactly(model: PreTrainedModel) -> bool:
    """Whether the rows of a batch never change each other's results."""
    return not has_state(model) and length_limit(model.config) is None


def check_trainable(model: PreTrainedModel, *, max_tokens: int) -> None:
    """Check that batched sampling from a model draws from the model's own distribution.

    Args:
        model: the policy.
        max_tokens: the longest prompt with its response, in tokens.

    Raises:
        UserError: padding would change the state of a layer, or a batch's longest row would change the other rows.
    """
    kind = model.config.model_type
    if has_state(model):
        raise UserError(
            f"{kind} has layers with a state (recurrent or hybrid), which padding would change; "
            "choose a policy with attention layers only"
        )
    limit = length_limit(model.config)
    if limit is not None and max_tokens > limit:
        raise UserError(
            f"the rotary embedding of this {kind} depends on the longest row of a batch beyond {limit} tokens; "
            f"data.max_prompt_tokens + data.max_response_tokens is {max_tokens}: set it to at most {limit}"
        )


def _rope_types(config: Any) -> Iterator[str]:
    """The types of rotary embeddings in a configuration; some configurations have one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict) and "rope_type" in value]
    for each in nested or [parameters]:
        yield str(each.get("rope_type", "default"))
