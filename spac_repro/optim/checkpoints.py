"""Checkpoints of the training state: weights, optimizer, random generator and step, as safetensors with a hash.

A checkpoint is a folder that appears only when it is complete. The newest few are kept, and all are deleted when their iteration is
finished. An engine that divides the state among the processes writes one file per process into the folder.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spac_repro.errors import UserError
from spac_repro.optim import distributed
from spac_repro.runs.files import atomic_folder, read_json, read_sealed_json, sha256_file, write_sealed_json
from spac_repro.runs.manifest import WrittenMetrics
from spac_repro.spans import span

# docs/decisions/02-exactness.md: why checkpoints are hashed safetensors files.
STATE_FILE, CONTENT_FILE = "state.safetensors", "checkpoint.json"


class TrainingState(NamedTuple):
    """The tensors of a checkpoint, by name."""

    full: dict[str, Tensor]  # not divided among processes; on the main process
    shard: dict[str, Tensor]  # this process's part of what is divided; empty where nothing is


def save(
    folder: Path,
    step: int,
    state: TrainingState,
    *,
    save_total_limit: int,
    computed_from: Mapping[str, Any],
    metrics: WrittenMetrics | None,
) -> None:
    """Write a checkpoint, then delete all but the newest `save_total_limit`. All processes call this together.

    Args:
        folder: where the checkpoints of the iteration lie.
        step: optimizer steps taken.
        state: weights and optimizer state.
        save_total_limit: checkpoints to keep.
        computed_from: what the checkpoint is computed from: run and initial weights.
        metrics: the metrics file up to this step; None on other processes than the main one.
    """
    with ExitStack() as stack:
        new = distributed.on_main_process(lambda: stack.enter_context(atomic_folder(folder / f"step-{step:07d}")))
        if state.shard:
            save_file(state.shard, new / _shard_file())
        shards = distributed.all_gather({_shard_file(): sha256_file(new / _shard_file())} if state.shard else {})

        def finish() -> None:
            save_file({**state.full, "generator": torch.get_rng_state()}, new / STATE_FILE)
            content: dict[str, Any] = {"step": step, "sha256": sha256_file(new / STATE_FILE), "shares": shards}
            content["metrics"] = (metrics or WrittenMetrics()).model_dump()
            write_sealed_json(new / CONTENT_FILE, content, computed_from=computed_from)
            stack.close()
            for old in _newest_first(folder)[save_total_limit:]:
                shutil.rmtree(old)

        distributed.on_main_process(finish)


def load(path: Path) -> TrainingState:
    """Read a checkpoint and restore torch's random generator from it.

    Raises:
        UserError: the checkpoint was written by a different number of processes.
    """
    full = load_file(path / STATE_FILE)
    torch.set_rng_state(full.pop("generator"))
    shards = _content(path)["shares"]
    if shards and len(shards) != distributed.world_size():
        raise UserError(
            f"{path} was written by {len(shards)} processes, and {distributed.world_size()} are running; start {len(shards)}"
        )
    return TrainingState(full, load_file(path / _shard_file()) if shards else {})


def latest_valid(
    folder: Path, computed_from: Mapping[str, Any], *, warn: Callable[[str], None] = lambda message: None
) -> Path | None:
    """Find the newest checkpoint that is not damaged and was computed from what `computed_from` says; None if there is none.

    `warn` gets a line for each that is damaged or another run's.
    """
    for path in _newest_first(folder):
        with span("checkpoint check"):
            reason = damage(path, computed_from)
        if not reason:
            return path
        warn(f"{path} is damaged ({reason}); going back to the checkpoint before it")
    return None


def step_of(path: Path) -> int:
    """Return the number of optimizer steps taken before a checkpoint."""
    return int(_content(path)["step"])


def metrics_of(path: Path) -> WrittenMetrics:
    """Return how much of the metrics file had been written at a checkpoint."""
    return WrittenMetrics(**_content(path)["metrics"])


def _content(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; `damage` has checked it."""
    return dict(read_json(path / CONTENT_FILE)["content"])


def damage(path: Path, computed_from: Mapping[str, Any]) -> str | None:
    """Say how a checkpoint is damaged, or that it is another run's; None if it can be resumed from."""
    try:
        content = read_sealed_json(path / CONTENT_FILE, computed_from=computed_from)
        hashes = {STATE_FILE: content["sha256"], **content["shares"]}
        if any(sha256_file(path / name) != sha256 for name, sha256 in hashes.items()):
            return "its hash is not the one written beside it"
    except (OSError, UserError, KeyError, TypeError, AttributeError) as error:
        return str(error)
    return None


def _shard_file() -> str:
    return f"share-{distributed.rank():04d}.safetensors"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors with one name each: safetensors refuses to write a tied weight twice. Frozen weights are left out."""
    parameters = dict(model.named_parameters())
    trained = {name: parameter.detach() for name, parameter in parameters.items() if parameter.requires_grad}
    tensors = model.state_dict() if len(trained) == len(parameters) else trained
    seen: dict[int, str] = {}
    return {name: t for name, t in tensors.items() if seen.setdefault(t.data_ptr(), name) == name}


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights under their names in a checkpoint; frozen ones, which an adapter's base has, are left out."""
    return {f"model.{name}": tensor.contiguous() for name, tensor in _unique_tensors(model).items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state under its names in a checkpoint."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": torch.as_tensor(value) for i, values in state.items() for name, value in values.items()}


def load_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy the weights of a checkpoint into a model; other tensors are ignored.

    Raises:
        UserError: the names or shapes are those of a different model.
    """
    saved = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    own = _unique_tensors(model)  # a tied weight has one name in both, and writing it sets all its names
    if own.keys() != saved.keys():
        name = sorted(own.keys() ^ saved.keys())[0]
        raise UserError(f"the checkpoint is of another model: only one of the two has {name}; remove the checkpoint")
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:  # copy_ would broadcast a smaller tensor silently
            raise UserError(
                f"the checkpoint is of another model: {name} is {_shape(saved[name])} in the checkpoint and {_shape(tensor)} in "
                "the model; remove the checkpoint"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore an optimizer's state from the tensors of a checkpoint; other tensors are ignored."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if not name.startswith("optimizer."):
            continue
        _, index, key = name.split(".", 2)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
