"""bfloat16 matrix products on a CPU that has no bfloat16 instructions.

There torch multiplies bfloat16 matrices element by element, many times slower than fp32 (bench/RESULTS.md). This module multiplies
the rounded operands in fp32 and rounds the result, which is what bfloat16 hardware does: products of bfloat16 numbers are exact in
fp32, and hardware sums them in fp32. Attention is computed as a whole: its softmax stays in fp32, where torch's own rounds it once
more.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from spac_repro.recipe import Recipe

# docs/decisions/08-bfloat16.md: why products are computed in fp32 from the rounded numbers.
MATMUL_FUNCTIONS = (linear, scaled_dot_product_attention)


def has_native_bf16() -> bool:
    """Whether torch has fast bfloat16 products here: on a GPU, or on a CPU that oneDNN has kernels for."""
    return torch.cuda.is_available() or (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch has no public name for it
    )


def emulate_bf16_matmul() -> AbstractContextManager[Any]:
    """Make linear layers and sdpa fast in bfloat16 within this context, for bfloat16 models and under autocast.

    Does nothing where bfloat16 is fast already.
    """
    return nullcontext() if has_native_bf16() else _EmulatedBf16Matmul()


def of(recipe: Recipe) -> AbstractContextManager[Any]:
    """The context in which a recipe computes: that of `emulate_bf16_matmul` if it computes or keeps weights in bfloat16."""
    half = "bfloat16" in (recipe.training.compute_dtype, recipe.policy.dtype)
    return emulate_bf16_matmul() if half else nullcontext()


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of a checkpointed forward pass and of its recomputation: the `context_fn` of `torch.utils.checkpoint`.

    PyTorch switches function modes off during recomputation. Without this the recomputed values would differ from the first ones.
    """
    return nullcontext(), _EmulatedBf16Matmul() if _EmulatedBf16Matmul.active else nullcontext()


class _EmulatedBf16Matmul(TorchFunctionMode):
    active = 0  # contexts that this process is in

    def __enter__(self) -> "_EmulatedBf16Matmul":
        _EmulatedBf16Matmul.active += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        _EmulatedBf16Matmul.active -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        if function not in MATMUL_FUNCTIONS or not (arguments and _is_bf16(arguments[0])):
            return function(*arguments, **keywords)
        with torch.autocast("cpu", enabled=False):
            product = function(*map(_round_to_bf16, arguments), **{name: _round_to_bf16(value) for name, value in keywords.items()})
        return product.to(torch.bfloat16)


def _is_bf16(operand: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return operand.device.type == "cpu" and (autocast or operand.dtype == torch.bfloat16)


def _round_to_bf16(value: Any) -> Any:
    """Round a floating-point tensor to bfloat16 and return it in fp32; return anything else unchanged."""
    return value.to(torch.bfloat16).float() if isinstance(value, Tensor) and value.is_floating_point() else value
