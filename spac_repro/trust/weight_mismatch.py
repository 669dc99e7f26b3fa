"""The first mismatch between the weights of two model folders. Files are read in chunks, so memory stays small."""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.trust.mismatch import Mismatch

CHUNK_BYTES = 4 * 2**20  # of a weight file in memory at once
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its safetensors file, its first byte there, and its size in bytes."""

    file: Path
    begin: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(policy: Path) -> dict[str, StoredTensor]:
    """The tensors of a model folder by name, over all shards. Only the headers of the files are read.

    Raises:
        UserError: a file is not safetensors, or is cut off.
    """
    found: dict[str, StoredTensor] = {}
    for file in sorted(policy.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > file.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = strict_json.parse(stream.read(length), f"{file}, its header", dict)
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                found[name] = StoredTensor(file, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
                if 8 + length + end > file.stat().st_size:
                    raise ValueError(f"{name} lies beyond its end")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise UserError(
                f"{file}: not safetensors, or cut off ({error}); remove {policy.parent} and repeat the run's command"
            ) from None
    return found


def forward_order(name: str) -> tuple[int, list[int], str]:
    """Sort key of a tensor's name in the order of a forward pass: embedding, layers by number, norm, output."""
    stage = 0 if "embed" in name else 3 if "lm_head" in name else 1 if re.search(r"\.\d+\.", name) else 2
    return stage, [int(number) for number in re.findall(r"\.(\d+)\.", name)], name


def first_tensor_mismatch(a: Path, b: Path, *, iteration: int) -> tuple[Mismatch | None, int]:
    """The first tensor in which two model folders differ, in the order of a forward pass, and the bytes read to find it.

    Raises:
        UserError: a file is not safetensors, or is cut off.
    """
    stored = [stored_tensors(folder) for folder in (a, b)]
    read = 0
    for name in sorted({*stored[0], *stored[1]}, key=forward_order):
        if any(name not in tensors for tensors in stored):
            presence = ("there" if name in tensors else "absent" for tensors in stored)
            return Mismatch("weights", iteration, name, "the tensor", *presence), read
        x, y = (tensors[name] for tensors in stored)
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            kinds = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (x, y))
            return Mismatch("weights", iteration, name, "the tensor", *kinds), read
        read += 2 * x.bytes
        if difference := _first_element_mismatch(x, y):
            return Mismatch("weights", iteration, name, *difference), read
    return None, read


def _first_element_mismatch(x: StoredTensor, y: StoredTensor) -> tuple[str, str, str, str] | None:
    """The first element that differs, its two values, and how many elements differ; None where all bytes are equal."""
    import numpy as np

    size = DTYPE_BYTES.get(x.dtype, 1)
    first: tuple[int, str, str] | None = None
    count, largest = 0, 0.0
    with x.file.open("rb") as file_x, y.file.open("rb") as file_y:
        file_x.seek(x.begin)
        file_y.seek(y.begin)
        for begin in range(0, x.bytes, CHUNK_BYTES):
            parts = [stream.read(min(CHUNK_BYTES, x.bytes - begin)) for stream in (file_x, file_y)]
            if parts[0] == parts[1]:
                continue
            cells = [np.frombuffer(part, np.uint8).reshape(-1, size) for part in parts]
            differs = (cells[0] != cells[1]).any(axis=1)
            values = [_as_float64(part, x.dtype) for part in parts]
            with np.errstate(all="ignore"):
                largest = max(largest, float(np.nanmax(np.abs(values[0][differs] - values[1][differs]), initial=0.0)))
            if first is None:
                place = int(differs.argmax())
                first = (begin // size + place, f"{values[0][place]:.9g}", f"{values[1][place]:.9g}")
            count += int(differs.sum())
    if first is None:
        return None
    elements = math.prod(x.shape)
    return (f"element {first[0]}", first[1], first[2], f"{count} of {elements} elements differ, by {largest:.2g} at most")


def _as_float64(content: bytes, dtype: str) -> Any:
    """The elements of a chunk of a tensor, as float64."""
    import numpy as np

    if dtype == "BF16":  # the upper half of an fp32
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
    return np.frombuffer(content, kinds.get(dtype, "u1")).astype(np.float64)
