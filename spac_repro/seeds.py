"""Every random draw has a seed of its own, made from the run's seed and the draw's name.

So a draw does not depend on what was drawn before it, and a run that was interrupted draws the same again.
"""

import hashlib

import torch
from torch import Tensor


# docs/decisions/02-exactness.md: how a killed run resumes and ends with the same bits.
def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the draw that `names` describe."""
    digest = hashlib.sha256(":".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def permutation(n: int, seed: int, *names: str | int) -> Tensor:
    """A random order of 0 … n−1; int64 [n]."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, *names)))
