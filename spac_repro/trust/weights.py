"""Where two model folders first differ: the tensor, the element, and how many others, read from the files piece by piece."""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError
from spac_repro.trust.parting import Parting

CHUNK = 4 * 2**20  # bytes of a weight file in memory at once
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    begin: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


def tensors(policy: Path) -> dict[str, Stored]:
    """The tensors of a model folder by name, over all its shards, from the files' headers alone.

    Raises:
        UserError: a file is not safetensors, or is cut off.
    """
    found: dict[str, Stored] = {}
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
                found[name] = Stored(file, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
                if 8 + length + end > file.stat().st_size:
                    raise ValueError(f"{name} lies beyond its end")
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise UserError(
                f"{file}: not safetensors, or cut off ({error}); remove {policy.parent} and repeat the run's command"
            ) from None
    return found


def order(name: str) -> tuple[int, list[int], str]:
    """Sorts tensors as a forward pass meets them: embedding, layers by number, norm, output."""
    stage = 0 if "embed" in name else 3 if "lm_head" in name else 1 if re.search(r"\.\d+\.", name) else 2
    return stage, [int(number) for number in re.findall(r"\.(\d+)\.", name)], name


def first_tensor(a: Path, b: Path, *, iteration: int) -> tuple[Parting | None, int]:
    """The first tensor in which two model folders differ, and how many bytes were read to find it."""
    stored = [tensors(folder) for folder in (a, b)]
    read = 0
    for name in sorted({*stored[0], *stored[1]}, key=order):
        if any(name not in each for each in stored):
            return Parting(
                "weights", iteration, name, "the tensor", *("there" if name in each else "absent" for each in stored)
            ), read
        x, y = (each[name] for each in stored)
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return Parting("weights", iteration, name, "the tensor", *(f"{each.dtype} {list(each.shape)}" for each in (x, y))), read
        read += 2 * x.bytes
        if difference := _difference(x, y):
            return Parting("weights", iteration, name, *difference), read
    return None, read


def _difference(x: Stored, y: Stored) -> tuple[str, str, str, str] | None:
    """The first element that differs, its two values, and how many others do; None where all bytes are equal."""
    import numpy as np

    size = SIZES.get(x.dtype, 1)
    first: tuple[int, str, str] | None = None
    count, largest = 0, 0.0
    with x.file.open("rb") as one, y.file.open("rb") as other:
        one.seek(x.begin)
        other.seek(y.begin)
        for begin in range(0, x.bytes, CHUNK):
            parts = [stream.read(min(CHUNK, x.bytes - begin)) for stream in (one, other)]
            if parts[0] == parts[1]:
                continue
            cells = [np.frombuffer(part, np.uint8).reshape(-1, size) for part in parts]
            differs = (cells[0] != cells[1]).any(axis=1)
            values = [_floats(part, x.dtype) for part in parts]
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


def _floats(content: bytes, dtype: str) -> Any:
    """The elements of a piece of a tensor, in fp64 where they are numbers."""
    import numpy as np

    if dtype == "BF16":  # the upper half of an fp32
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
    return np.frombuffer(content, kinds.get(dtype, "u1")).astype(np.float64)
