"""Checks of a model folder before anything in it is read: it may come from anybody."""

from pathlib import Path

from spac_repro.documents import strict_json, text
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError

INDEX = "model.safetensors.index.json"


def check_folder(folder: Path) -> None:
    """Check that reading a folder runs no code, and reads weights from nowhere else.

    Raises:
        UserError: there is an adapter, a link out of the folder, no safetensors, or config.json or the index names other files.
    """
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: adapter_config.json would replace the weights by those of another model and an adapter; merge the adapter "
            "with `spac-repro export`, and name that folder"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; name a Hugging Face model folder or a run folder")
    check_links(folder)
    check_weights(folder)
    _check_index(folder)
    _check_config(folder)


def check_links(folder: Path) -> None:
    """Check that no link leads out of the folder. The hub's cache has links from `snapshots` into its own `blobs`.

    Raises:
        UserError: one does.
    """
    own = [folder.resolve()]
    if own[0].parent.name == "snapshots":
        own.append(own[0].parent.parent / "blobs")
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in own):
            raise UserError(f"{path}: a link out of the model folder; copy what it points to, or name the folder of the original")


def check_weights(folder: Path) -> None:
    """Check that the weights are safetensors.

    Raises:
        UserError: there are none, or pickles only.
    """
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        text.check_no_lfs_pointer(path)
    if not weights:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"only pickle weights ({pickles[0]}), which can run code when read" if pickles else "no weights"
        raise UserError(f"{folder}: {found}; safetensors are needed: if you trust the weights, convert them with save_pretrained")


def _check_index(folder: Path) -> None:
    """Raise UserError unless every shard that the index names is a safetensors file of the folder."""
    file = folder / INDEX
    if not file.exists():
        return
    shards = strict_json.read(file, dict).get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"{file}: weight_map must be an object of tensors and their files; download or save the model again")
    for shard in shards.values():
        if not (isinstance(shard, str) and _is_weights_name(shard) and (folder / shard).is_file()):
            raise UserError(f"{file}: {one_line(repr(shard), 60)} is no safetensors file of the folder; save the model again")


def _check_config(folder: Path) -> None:
    """Raise UserError if config.json names weights outside the folder, or an attention kernel that would be downloaded."""
    file = folder / "config.json"
    config = strict_json.read(file, dict)
    weights = config.get("transformers_weights")
    if weights is not None and not (isinstance(weights, str) and _is_weights_name(weights)):
        raise UserError(f"{file}: transformers_weights must name a safetensors file of the folder; remove the key")
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"):
        if "/" in str(config.get(key, "")):
            raise UserError(f"{file}: {key} names code on the hub, which is not executed; remove the key")


def _is_weights_name(name: str) -> bool:
    return Path(name).name == name and name.endswith(".safetensors")


def weight_files(folder: Path) -> list[Path]:
    """The files of a checked folder that transformers reads weights from. Others may lie beside them, in another format.

    Raises:
        UserError: no file has the name that transformers reads.
    """
    named = strict_json.read(folder / "config.json", dict).get("transformers_weights") or "model.safetensors"
    if (folder / named).is_file():
        return [folder / named]
    if (folder / INDEX).is_file():
        return [folder / shard for shard in sorted(set(strict_json.read(folder / INDEX, dict)["weight_map"].values()))]
    raise UserError(f"{folder}: neither {named} nor {INDEX}; save the model again with save_pretrained")
