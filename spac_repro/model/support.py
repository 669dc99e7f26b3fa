"""Which architectures are computed exactly, and how: refused here is what would give other numbers without a word.

A model is computed in batches: prompts are padded on the left when responses are sampled, and several prompts share a row when
log-probabilities are computed. Neither may change what a row's own tokens are given.
"""

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from spac_repro.errors import UserError

# Architectures for which packing is exact: their attention passes transformers' keyword arguments on to its backend, and their
# logits are the output layer of the last hidden state, with nothing in between. Tests check each of them.
PACKING_ARCHITECTURES = ("llama", "mistral", "qwen2")
# Rotary embeddings whose frequencies are the same at every length. With the others, `dynamic` and `longrope`, the longest row of a
# batch decides the frequencies of all its rows.
FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def packs_exactly(config: Any) -> bool:
    """Whether several prompts can share a row without a change to any of them."""
    return (
        config.model_type in PACKING_ARCHITECTURES and not getattr(config, "attention_dropout", 0) and length_limit(config) is None
    )


def has_state(model: PreTrainedModel) -> bool:
    """Whether a layer keeps a state that padding on the left would enter: recurrent, convolutional and hybrid models."""
    layers = getattr(model.config, "layer_types", None) or ()
    return bool(getattr(model, "_is_stateful", False)) or not ATTENTION_LAYERS.issuperset(layers)


def length_limit(config: Any) -> int | None:
    """The tokens up to which the rotary embedding is the same in every batch; None where that is always so."""
    if FIXED_ROPE.issuperset(_rope_types(config)):
        return None
    parameters = getattr(config, "rope_parameters", None) or {}
    original = parameters.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or config.max_position_embeddings)


def batches_exactly(model: PreTrainedModel) -> bool:
    """Whether rows of a batch do not change one another, whatever their lengths."""
    return not has_state(model) and length_limit(model.config) is None


def check_trainable(model: PreTrainedModel, *, max_tokens: int) -> None:
    """Check that self-play responses of a model are samples of the model.

    Args:
        model: the policy.
        max_tokens: the longest prompt with its response, in tokens.

    Raises:
        UserError: padding would enter the state of a layer, or a batch's longest row would change the others.
    """
    kind = model.config.model_type
    if has_state(model):
        raise UserError(
            f"{kind} has layers with a state (recurrent or hybrid), which the padding of a batch would enter; "
            "name a policy with attention layers only"
        )
    limit = length_limit(model.config)
    if limit is not None and max_tokens > limit:
        raise UserError(
            f"the rotary embedding of this {kind} depends on the longest row of a batch beyond {limit} tokens; "
            f"data.max_prompt_tokens + data.max_response_tokens is {max_tokens}: set it to at most {limit}"
        )


def _rope_types(config: Any) -> Iterator[str]:
    """The kinds of rotary embeddings of a configuration; some have one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict) and "rope_type" in value]
    for each in nested or [parameters]:
        yield str(each.get("rope_type", "default"))
