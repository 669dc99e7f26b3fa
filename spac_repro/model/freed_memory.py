"""Memory that is free and still held: by cycles of references, by torch's allocator, by the C library's heap."""

import ctypes
import gc
import sys
from contextlib import suppress

import torch


def release() -> None:
    """Give the memory that earlier work has left back to the system.

    Loading a model leaves as much as its weights take: without this, they would lie twice in the peak of what comes next.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
