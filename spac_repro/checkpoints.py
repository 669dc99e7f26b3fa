"""Training state on disk: weights, optimizer, random generator and position, as safetensors beside a JSON file with its hash.

Each checkpoint is a folder that appears whole; the newest few are kept, and all go when the work they belong to is done.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spac_repro.errors import UserError
from spac_repro.runs import new_folder, read_json, sha256_file, write_json


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: int) -> None:
    """Write the state after `step` optimiser steps, then drop all but the newest `keep` checkpoints."""
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in _distinct(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors["generator"] = torch.get_rng_state()
    with new_folder(folder / f"step-{step:07d}") as new:
        save_file(tensors, new / "state.safetensors")
        write_json(new / "checkpoint.json", {"step": step, "sha256": sha256_file(new / "state.safetensors")})
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, warn: Callable[[str], None]) -> int:
    """Load the newest checkpoint that is whole and return its step; 0, and nothing loaded, where there is none.

    A damaged one is named with `warn`, and the one before it is taken.
    """
    for path in _newest_first(folder):
        if reason := damage(path):
            warn(f"{path} is damaged ({reason}); going back to the checkpoint before it")
            continue
        tensors = load_file(path / "state.safetensors")
        torch.set_rng_state(tensors.pop("generator"))
        _load_model(model, {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
        _load_optimizer(optimizer, {name: t for name, t in tensors.items() if name.startswith("optimizer.")})
        return int(read_json(path / "checkpoint.json")["step"])
    return 0


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        if sha256_file(path / "state.safetensors") != read_json(path / "checkpoint.json")["sha256"]:
            return "its hash is not the one written beside it"
    except (OSError, UserError, KeyError, TypeError) as error:
        return str(error)
    return None


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    return next((path for path in _newest_first(folder) if not damage(path)), None)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors, one name for each: safetensors refuses to write a tied weight twice."""
    seen: dict[int, str] = {}
    return {name: t for name, t in model.state_dict().items() if seen.setdefault(t.data_ptr(), name) == name}


def _load_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy weights in; a tied weight has one name on disk, and writing it writes all its names."""
    own = _distinct(model)
    if own.keys() != tensors.keys():
        raise UserError(f"the checkpoint is of another model: {sorted(own.keys() ^ tensors.keys())[0]} is in one of the two only")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:  # copying would stretch a smaller one without a word
            raise UserError(
                f"the checkpoint is of another model: {name} is {_shape(tensors[name])} there and {_shape(tensor)} here"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        _, index, key = name.split(".", 2)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
