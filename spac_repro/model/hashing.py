"""The hash of weights: of tensors, and not of the files that hold them."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_sha256(tensors: Mapping[str, Tensor], *, head: str = "") -> str:
    """Compute the SHA-256 of tensors by name (name, dtype, shape, bytes), in the order of their names.

    Args:
        tensors: by name.
        head: what is hashed before them.
    """
    digest = hashlib.sha256(head.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type,unused-ignore]
    return digest.hexdigest()
