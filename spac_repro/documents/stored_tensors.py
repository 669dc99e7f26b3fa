"""The tensors of a model folder as its safetensors files hold them. Only headers are read; torch is not needed."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spac_repro.documents import strict_json
from spac_repro.errors import UserError


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its safetensors file, its first byte there, and its size in bytes."""

    file: Path
    begin: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(files: Iterable[Path], remedy: str) -> dict[str, StoredTensor]:
    """The tensors of safetensors files by name, over all files. Only the headers of the files are read.

    Args:
        files: the files.
        remedy: what to do where one is damaged.

    Raises:
        UserError: a file is not safetensors, or is cut off.
    """
    found: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > file.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = strict_json.parse(stream.read(length), f"{file}, its header", dict)
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                if not 0 <= begin <= end:
                    raise ValueError(f"{name} has no place")
                if 8 + length + end > file.stat().st_size:
                    raise ValueError(f"{name} lies beyond its end")
                found[name] = StoredTensor(file, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise UserError(f"{file}: not safetensors, or cut off ({error}); {remedy}") from None
    return found
