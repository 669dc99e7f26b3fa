"""The first mismatch between the weights of two model folders. Files are read in chunks, so memory stays small."""

import math
import re
from pathlib import Path
from typing import Any

from spac_repro.documents.stored_tensors import StoredTensor, stored_tensors
from spac_repro.trust.mismatch import Mismatch

CHUNK_BYTES = 4 * 2**20  # of a weight file in memory at once
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def forward_order(name: str) -> tuple[int, list[int], str]:
    """Sort key of a tensor's name in the order of a forward pass: embedding, layers by number, norm, output."""
    stage = 0 if "embed" in name else 3 if "lm_head" in name else 1 if re.search(r"\.\d+\.", name) else 2
    return stage, [int(number) for number in re.findall(r"\.(\d+)\.", name)], name


def first_tensor_mismatch(a: Path, b: Path, *, iteration: int) -> tuple[Mismatch | None, int]:
    """The first tensor in which two model folders differ, in the order of a forward pass, and the bytes read to find it.

    Raises:
        UserError: a file is not safetensors, or is cut off.
    """
    stored = [
        stored_tensors(sorted(policy.glob("*.safetensors")), f"remove {policy.parent} and repeat the run's command")
        for policy in (a, b)
    ]
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
