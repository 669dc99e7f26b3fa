"""bfloat16 on a processor that has no units for it.

torch multiplies bfloat16 matrices there one number after the other, many times slower than fp32 (bench/RESULTS.md). Here the
rounded numbers are multiplied in fp32 and the results rounded, which is what such units do: products of them are exact in fp32, and
are summed in it. Attention is taken as a whole: its softmax stays in fp32, where torch's own rounds it once more.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

PRODUCTS = (linear, scaled_dot_product_attention)


def has_units() -> bool:
    """Whether bfloat16 products are worth asking torch for: on a GPU, or on a processor that oneDNN has kernels for."""
    return torch.cuda.is_available() or (
        torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def widened() -> AbstractContextManager[Any]:
    """In this block linear layers and sdpa are fast in bfloat16, whether the model is or autocast makes it so."""
    return nullcontext() if has_units() else _Widened()


def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For torch's checkpoints (`context_fn`): what surrounds a forward pass, and its repetition when the gradient is taken.

    PyTorch switches modes off there, so the repetition would compute otherwise than what it repeats.
    """
    return nullcontext(), _Widened() if _Widened.entered else nullcontext()


class _Widened(TorchFunctionMode):
    entered = 0  # blocks that this process is in

    def __enter__(self) -> "_Widened":
        _Widened.entered += 1
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        _Widened.entered -= 1
        super().__exit__(*error)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        if function not in PRODUCTS or not (arguments and _in_bfloat16(arguments[0])):
            return function(*arguments, **keywords)
        with torch.autocast("cpu", enabled=False):
            product = function(*map(_rounded, arguments), **{name: _rounded(value) for name, value in keywords.items()})
        return product.to(torch.bfloat16)


def _in_bfloat16(operand: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return operand.device.type == "cpu" and (autocast or operand.dtype == torch.bfloat16)


def _rounded(value: Any) -> Any:
    """A number that bfloat16 holds, in fp32; all that is no floating-point tensor as it is."""
    return value.to(torch.bfloat16).float() if isinstance(value, Tensor) and value.is_floating_point() else value
