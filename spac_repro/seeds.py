"""Seeds: every random draw has its own, derived from the run's seed and the draw's name.

So a draw does not depend on earlier draws, and a run that was interrupted repeats its draws.
"""

import hashlib

import torch
from torch import Tensor


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed for the draw that `names` identify."""
    digest = hashlib.sha256(":".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def permutation(n: int, seed: int, *names: str | int) -> Tensor:
    """Draw a random order of 0 … n−1; int64 [n]. `seed` and `names` are those of `derive_seed`."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, *names)))
