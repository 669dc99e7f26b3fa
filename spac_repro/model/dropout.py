"""Dropout is disabled, so a policy computes the same in training mode and in evaluation mode.

ρ compares a policy in training mode with its reference in evaluation mode. With dropout, ρ ≠ 0 before the first step, and the
random masks depend on how a batch is split. DPO's reference implementation and TRL (`disable_dropout`) train without dropout too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from transformers import PretrainedConfig, PreTrainedModel

from spac_repro.errors import UserError

_RECORD = "dropout_set_to_zero"
_PROBE_TOKENS = 16


def disable(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout probability of a model to zero, in its modules and in its configuration.

    Some models read the configuration in `forward`, and it is saved with the weights. `disabled` returns what was set to zero.

    Returns:
        The model.
    """
    record: dict[str, float] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            record |= _zero_config(config)
    for module in model.modules():
        for name, probability in _probabilities(vars(module), every=isinstance(module, _DropoutNd)):
            setattr(module, name, 0.0)
            record.setdefault("modules", 0.0)  # of a model whose configuration does not name it
            record["modules"] = max(record["modules"], probability)
    if record.keys() - {"modules"}:
        record.pop("modules", None)
    setattr(model, _RECORD, record)
    return model


def disabled(model: PreTrainedModel) -> dict[str, float]:
    """Return the probabilities that `disable` set to zero, by name in the configuration; `modules`: the largest of the others."""
    return dict(getattr(model, _RECORD, {}))


def check_deterministic(model: PreTrainedModel) -> None:
    """Check that a forward pass in training mode draws no random numbers that change its result.

    Raises:
        UserError: two passes over the same tokens differ.
    """
    first, second = (_logits_in_training(model, seed) for seed in (0, 1))
    if not torch.equal(first, second):
        raise UserError(
            f"{model.config.model_type}: with dropout set to zero, training still draws random numbers (noise in a router, or "
            "randomly skipped layers), so equal runs would differ; choose another policy"
        )


def _logits_in_training(model: PreTrainedModel, seed: int) -> torch.Tensor:
    device, training = model.device, model.training
    tokens = torch.arange(_PROBE_TOKENS, device=device).remainder(int(model.config.get_text_config().vocab_size))[None]
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
            return logits
    finally:
        model.train(training)


def _zero_config(config: PretrainedConfig, prefix: str = "") -> dict[str, float]:
    record: dict[str, float] = {}
    for name, probability in _probabilities(vars(config)):
        setattr(config, name, 0.0)
        record[f"{prefix}{name}"] = probability
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            record |= _zero_config(value, f"{prefix}{name}.")
    return record


def _probabilities(attributes: Mapping[str, Any], *, every: bool = False) -> Iterator[tuple[str, float]]:
    """The positive dropout probabilities among attributes: `attn_pdrop`, `layerdrop`, `drop_path_rate`, …, `p` of nn.Dropout."""
    for name, value in list(attributes.items()):
        if isinstance(value, float) and value > 0 and ("drop" in name.lower() or (every and name == "p")):
            yield name, value
