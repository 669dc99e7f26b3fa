"""Integrity of loaded models: every tensor is there and finite; transformers would fill a gap with random weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
