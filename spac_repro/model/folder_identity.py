"""What identifies a model folder of the user's own: a hash of its weights and its configuration. torch is not needed.

A folder can be moved, renamed, and its weights divided into other files; its identity stays. The tokenizer and the stop tokens have
hashes of their own in the manifest.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from spac_repro.documents import strict_json
from spac_repro.documents.stored_tensors import StoredTensor, stored_tensors
from spac_repro.errors import UserError
from spac_repro.model import trusted_folder

CHUNK_BYTES = 16 * 2**20  # of a weight file in memory at once
# What `save_pretrained` writes by itself, and does not change the model.
IRRELEVANT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


def check_complete(folder: Path) -> None:
    """Check that a folder holds a model that can be trusted, and its tokenizer.

    Raises:
        UserError: it does not.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a model folder with --policy, or a model of the hub as OWNER/NAME@COMMIT")
    trusted_folder.check_folder(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder}: no tokenizer (tokenizer.json); save the model's own into it with tokenizer.save_pretrained")


def sha256(folder: Path) -> str:
    """Return `sha256:…` of a checked model folder: of every tensor's name, dtype, shape and bytes, and of the configuration.

    Raises:
        UserError: a weight file or config.json is damaged.
    """
    states = [file.stat() for file in (folder / "config.json", *trusted_folder.weight_files(folder))]
    return _sha256(folder.resolve(), tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states))


@cache  # a process asks when the command line is read, and again when the weights are
def _sha256(folder: Path, states: tuple[tuple[int, ...], ...]) -> str:
    config = strict_json.read(folder / "config.json", dict)
    digest = hashlib.sha256()
    digest.update(json.dumps({key: config[key] for key in sorted(config) if key not in IRRELEVANT}, sort_keys=True).encode())
    for name, tensor in sorted(_tensors(folder).items()):
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.begin)
            for begin in range(0, tensor.bytes, CHUNK_BYTES):
                digest.update(stream.read(min(CHUNK_BYTES, tensor.bytes - begin)))
    return f"sha256:{digest.hexdigest()}"


def number_of_parameters(folder: Path) -> int:
    """Count the elements of all tensors of a checked model folder.

    Raises:
        UserError: a weight file is damaged.
    """
    return sum(math.prod(tensor.shape) for tensor in _tensors(folder).values())


def summed_widths(folder: Path, layers: Sequence[str]) -> int:
    """Sum rows and columns of the weight matrices of a checked model folder that belong to layers of these names.

    Args:
        folder: the folder.
        layers: names of layers, such as q_proj, in every block.

    Raises:
        UserError: a weight file is damaged.
    """
    ends = tuple(f".{layer}.weight" for layer in layers)
    return sum(sum(tensor.shape) for name, tensor in _tensors(folder).items() if f".{name}".endswith(ends))


def check(folder: Path, expected: str | None) -> None:
    """Check that a folder is the one that a run or a recipe names.

    Raises:
        UserError: its hash is another.
    """
    check_complete(folder)
    if (found := sha256(folder)) != expected:
        raise UserError(
            f"{folder} is not the model that is named: its hash is {found[:23]}…, and policy.revision is {str(expected)[:23]}…; "
            "name the right folder, or give this one with --policy"
        )


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    return stored_tensors(trusted_folder.weight_files(folder), "save the model again")
