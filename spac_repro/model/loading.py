"""Integrity of loaded models: every tensor is there and finite; transformers would fill a gap with random weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError


def check_loading_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Check that every tensor of the model was read from the folder, and every tensor in the folder belongs to the model.

    Args:
        folder: the model folder.
        info: what transformers reports with `output_loading_info=True`.

    Raises:
        UserError: a tensor is missing, unexpected, or has another shape; the message names the first one.
    """
    kinds = {
        "mismatched_keys": "has another shape than the architecture in config.json",
        "missing_keys": "is missing, and would be drawn at random",
        "unexpected_keys": "does not belong to the architecture in config.json",
    }
    for kind, what in kinds.items():
        names = sorted(_names(info.get(kind) or ()))
        if names:
            more = f" ({len(names)} such tensors)" if len(names) > 1 else ""
            raise UserError(f"{folder}: tensor {names[0]} {what}{more}; the folder does not hold a complete causal language model")


def unreadable(folder: Path, error: Exception) -> UserError:
    """Turn what a library raised about a model folder into an error of one line."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "scaled_dot_product_attention" in str(error):
        return UserError(f"{folder}: the architecture does not support sdpa; use --set policy.attn_implementation=eager")
    return UserError(f"{folder} cannot be read ({one_line(reason, 120)}); create the folder again")


def unreadable_tokenizer(folder: Path, error: Exception) -> UserError:
    """Turn what a library raised about the tokenizer of a model folder into an error of one line."""
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        return UserError(
            f"{folder}: the tokenizer has tokenizer.model and no tokenizer.json; make one where sentencepiece is installed: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if "backend tokenizer" in str(error):
        return UserError(f"{folder}: the tokenizer has no tokenizer.json; choose a policy with a fast tokenizer, or convert it")
    return unreadable(folder, error)


def check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer ends texts, and that its text form identifies it.

    Raises:
        UserError: there is no end-of-sequence token; or the tokenizer is written in Python and has no tokenizer.json.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no end-of-sequence token (eos_token), which ends a response; choose another policy"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{folder}: {type(tokenizer).__name__} is written in Python and has no tokenizer.json; "
            "choose a policy with a fast tokenizer, or convert it"
        )


def check_token_ids(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        UserError: a token's id is beyond the embedding.
    """
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, up to id {largest}, and the model's embedding {rows} rows; "
            "the two do not belong together"
        )


def check_finite_weights(folder: Path, model: nn.Module) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        UserError: a weight is NaN or infinite; the message names the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{folder}: tensor {name} holds values that are not finite; the weights are damaged")


def check_finite(values: Tensor, what: str) -> Tensor:
    """Return the values if all of them are finite.

    Raises:
        UserError: one is NaN or infinite.
    """
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{what} are not finite: the policy's weights are damaged, or its dtype cannot hold its activations")
    return values


def _names(keys: Iterable[Any]) -> Iterable[str]:
    """Names of tensors; transformers lists a mismatch as a tuple with both shapes."""
    return (str(key[0] if isinstance(key, tuple) else key) for key in keys)
