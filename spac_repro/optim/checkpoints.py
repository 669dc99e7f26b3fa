"""Training state on disk: weights, optimizer, random generator and position, as safetensors beside a JSON file with its hash.

Each checkpoint is a folder that appears whole; the newest few are kept, and all go when the work they belong to is done. Where
several processes share the state out among them, each writes its share into the folder before it appears.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spac_repro.errors import UserError
from spac_repro.optim import processes
from spac_repro.runs.files import atomic_folder, read_json, sha256_file, write_json

STATE = "state.safetensors"


def write(folder: Path, step: int, whole: dict[str, Tensor], share: dict[str, Tensor], *, keep: int) -> None:
    """Write a checkpoint, then drop all but the newest `keep`.

    What is whole comes from the main process; every process adds its own share where there is one.
    """
    with ExitStack() as held:
        new = processes.on_main(lambda: held.enter_context(atomic_folder(folder / f"step-{step:07d}")))
        if share:
            save_file(share, new / _share_file())
        shares = processes.gather({_share_file(): sha256_file(new / _share_file())} if share else {})

        def finish() -> None:
            save_file({**whole, "generator": torch.get_rng_state()}, new / STATE)
            write_json(
                new / "checkpoint.json",
                {"step": step, "sha256": sha256_file(new / STATE)} | ({"shares": shares} if shares else {}),
            )
            held.close()
            for old in _newest_first(folder)[keep:]:
                shutil.rmtree(old)

        processes.on_main(finish)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is whole, and this process's share (empty where there is none); sets the random generator.

    Raises:
        UserError: the shares are of another number of processes.
    """
    whole = load_file(path / STATE)
    torch.set_rng_state(whole.pop("generator"))
    shares = read_json(path / "checkpoint.json").get("shares", {})
    if shares and len(shares) != processes.world():
        raise UserError(f"{path} was written by {len(shares)} processes, and {processes.world()} are here; start as many")
    return whole, load_file(path / _share_file()) if shares else {}


def newest(folder: Path, *, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole, which the main process chooses for all; damaged ones before it are named."""

    def look() -> Path | None:
        for path in _newest_first(folder):
            if not (reason := damage(path)):
                return path
            warn(f"{path} is damaged ({reason}); going back to the checkpoint before it")
        return None

    return processes.on_main(look)


def step_of(path: Path) -> int:
    """The optimiser steps taken before a checkpoint."""
    return int(read_json(path / "checkpoint.json")["step"])


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        said = read_json(path / "checkpoint.json")
        if any(sha256_file(path / name) != sha256 for name, sha256 in {STATE: said["sha256"], **said.get("shares", {})}.items()):
            return "its hash is not the one written beside it"
    except (OSError, UserError, KeyError, TypeError, AttributeError) as error:
        return str(error)
    return None


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    return next((path for path in _newest_first(folder) if not damage(path)), None)


def _share_file() -> str:
    return f"share-{processes.rank():04d}.safetensors"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors, one name for each: safetensors refuses to write a tied weight twice."""
    seen: dict[int, str] = {}
    return {name: t for name, t in model.state_dict().items() if seen.setdefault(t.data_ptr(), name) == name}


def of_model(model: nn.Module) -> dict[str, Tensor]:
    """The weights, under the names they have in a checkpoint."""
    return {f"model.{name}": tensor.contiguous() for name, tensor in _distinct(model).items()}


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, under the names it has in a checkpoint."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": torch.as_tensor(value) for i, its in state.items() for name, value in its.items()}


def load_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy weights in; a tied weight has one name on disk, and writing it writes all its names."""
    tensors = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
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


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the optimizer into the state it was in."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if not name.startswith("optimizer."):
            continue
        _, index, key = name.split(".", 2)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
