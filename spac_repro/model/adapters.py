"""Low-rank adapters on a frozen base: LoRA (Hu et al. 2021, arXiv 2106.09685), computed by PEFT.

A linear layer with weight W computes x·Wᵀ + (alpha / rank)·x·Aᵀ·Bᵀ; only A and B are trained. B begins at zero, so a new adapter
changes nothing. PEFT puts its layers into the model, which stays what it was for everything else: packing, sampling, evaluation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.model.hashing import tensors_sha256
from spac_repro.policy_settings import AdapterSettings

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # as PEFT names them
METADATA_KEY = "spac_repro"  # one key: safetensors writes several in no fixed order
_NAME = "default"  # of the adapter in PEFT's layers
_PREFIX = "base_model.model."  # of tensors in PEFT's files
_RECORD = "adapter_and_base"


@dataclass(frozen=True)
class Adapter:
    """What the adapter of a model is, but for its weights."""

    settings: AdapterSettings
    base_sha256: str  # the hash of the base's weights: `policy.weights_sha256`, before they are quantized

    def identity(self) -> dict[str, Any]:
        """What is written into the file of weights: the base, and its bits where it is quantized."""
        bits = self.settings.base_bits
        return {"base_sha256": self.base_sha256, **({"base_bits": bits} if bits else {})}


def of(model: nn.Module) -> Adapter | None:
    """Return what the adapter of a model is; None for a model without one."""
    found: Adapter | None = getattr(model, _RECORD, None)
    return found


def add(model: PreTrainedModel, settings: AdapterSettings, *, base_sha256: str, seed: int = 0) -> PreTrainedModel:
    """Put a new adapter into a model, in float32, and freeze everything else; return the model.

    Args:
        model: the base.
        settings: rank, alpha and targets.
        base_sha256: the hash of the base's weights.
        seed: of A, which PEFT draws from Kaiming's uniform distribution; B is zero.

    Raises:
        UserError: the model lacks a target.
    """
    from peft import inject_adapter_in_model

    check_targets(model, settings.targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(settings, linear_layers(model)), model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in _layers(model).values():
        for part in (layer.lora_A, layer.lora_B):
            part.float().requires_grad_(True)  # PEFT takes the base's dtype, and most steps are smaller than bfloat16 resolves
    setattr(model, _RECORD, Adapter(settings, base_sha256))
    return model


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return the linear layers that may get an adapter, by their full names: all but the output layer, whose weight may be tied."""
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not output}


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Check that each target names linear layers of the model.

    Raises:
        UserError: one names none; the message lists the names that there are.
    """
    layers = linear_layers(model)
    names = sorted({name.rpartition(".")[2] for name in layers})
    for target in targets:
        if not any(_is_target(name, (target,)) for name in layers):
            has = f"it has {', '.join(names[:12])}" if names else "it has no linear layers"
            near = did_you_mean(target, names)
            raise UserError(f"policy.adapter.targets: {model.config.model_type} has no linear layers {target[:60]!r}{near}; {has}")


def _is_target(layer: str, targets: Sequence[str]) -> bool:
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def _peft_config(settings: AdapterSettings, layers: Mapping[str, nn.Linear]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank; it need not be an integer
        target_modules=[name for name in layers if _is_target(name, settings.targets)],
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's layers, by the names of the layers that they took the place of."""
    from peft.tuners.lora import LoraLayer

    return {name: each for name, each in model.named_modules() if isinstance(each, LoraLayer)}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's weights, A [rank, in] and B [out, rank] of each layer, under their names in PEFT's files."""
    found = {}
    for name, layer in _layers(model).items():
        for part in ("lora_A", "lora_B"):
            found[f"{_PREFIX}{name}.{part}.weight"] = getattr(layer, part)[_NAME].weight.detach()
    return found


def fill(model: PreTrainedModel, saved: Mapping[str, Tensor], folder: Path) -> None:
    """Copy the weights of a file into a model's adapter.

    Raises:
        UserError: the names or shapes are not the adapter's, or a value is not finite.
    """
    own = tensors(model)
    for name in sorted(own.keys() ^ saved.keys()):
        where = "is missing" if name in own else f"belongs to no target in {CONFIG_FILE}"
        raise UserError(f"{folder / WEIGHTS_FILE}: {name} {where}; the two files are not of one adapter for this base")
    for name, tensor in own.items():
        if saved[name].shape != tensor.shape:
            shapes = f"{tuple(saved[name].shape)} and must be {tuple(tensor.shape)}"
            raise UserError(f"{folder / WEIGHTS_FILE}: {name} is {shapes}; the two files are not of one adapter for this base")
        if not bool(torch.isfinite(saved[name]).all()):
            raise UserError(f"{folder / WEIGHTS_FILE}: {name} holds values that are not finite; the weights are damaged")
        tensor.copy_(saved[name])


def save(model: nn.Module, folder: Path, *, base: str | None, revision: str | None) -> None:
    """Write the two files of an adapter folder, which PEFT reads. Equal adapters give equal bytes.

    Args:
        model: a model with an adapter.
        folder: the folder, which exists.
        base: where to find the base: the name of a repository, or a folder relative to this one.
        revision: the commit, where `base` is a repository.
    """
    adapter = of(model)
    assert adapter is not None
    config = _peft_config(adapter.settings, {}).to_dict() | {
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "target_modules": list(adapter.settings.targets),
    }
    config.pop("runtime_config", None)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n", encoding="utf-8")
    metadata = {METADATA_KEY: json.dumps(adapter.identity(), sort_keys=True)}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors(model).items()}, folder / WEIGHTS_FILE, metadata)


def sha256(model: nn.Module) -> str:
    """Compute the SHA-256 of what the adapter makes of its base: the base's hash, alpha, and all tensors by name."""
    adapter = of(model)
    assert adapter is not None
    head = {**adapter.identity(), "alpha": adapter.settings.alpha}
    return tensors_sha256(tensors(model), head=f"{json.dumps(head, sort_keys=True)}\n")


@contextmanager
def as_base(model: nn.Module) -> Iterator[None]:
    """Compute with the base alone in this block: the start policy, without a second model."""
    layers = _layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add (alpha / rank)·B·A to the base's weights, and take PEFT's layers out of the model; return the model.

    The sum is rounded once. PEFT's own merging rounds the product to the base's dtype first, and then the sum.
    """
    for name, layer in _layers(model).items():
        base = layer.get_base_layer()
        merged = base.weight.float() + layer.get_delta_weight(_NAME).float()
        base.weight.copy_(merged.to(base.weight.dtype))
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, base)
    for left in (_RECORD, "peft_config"):
        if hasattr(model, left):
            delattr(model, left)
    return model
