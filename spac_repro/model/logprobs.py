"""log π of response tokens, from the last hidden states of the places that predict them.

The logits, tokens × vocabulary, are the largest tensor of a training step. They are made for response tokens only, at most so many
at once, and turned in place into what their gradient needs. On a GPU Liger's kernel does this where the extra `liger` is installed.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from spac_repro.model import precision

AT_ONCE = 2**26  # logits held at once: 256 MB in fp32, whatever the vocabulary and the length


def token_logprobs(hidden: Tensor, output: nn.Module, targets: Tensor, *, chunk_elements: int = AT_ONCE) -> Tensor:
    """log softmax(output(hidden))[target] of each token; [tokens], in fp32.

    Where not all logits fit at once, they are made in chunks, and made again for the gradient.

    Args:
        hidden: [tokens, width], of the places that predict.
        output: the output layer, from width to vocabulary; its result is not to be needed for its own gradient, as a linear one's
            is not.
        targets: [tokens], the tokens predicted.
    """
    whole = isinstance(output, nn.Linear) and not hasattr(output.weight, "ds_id")  # ZeRO-3 has only its share outside of the layer
    if hidden.is_cuda and whole and len(targets) and (losses := _liger()) is not None:
        return -losses(output.weight, hidden, targets, output.bias).float()
    # A vocabulary may be sharded or padded: the layer's own number of outputs is known to the layer alone, its weight tells it.
    weight = getattr(output, "weight", None)
    size = max(1, chunk_elements // max(1, weight.shape[0] if isinstance(weight, Tensor) else 1))
    if len(targets) <= size:
        return _chunk(hidden, output, targets)
    chunks = zip(hidden.split(size), targets.split(size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([_chunk(part, output, its) for part, its in chunks])
    remade: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": precision.contexts}
    return torch.cat([checkpoint(_chunk, part, output, its, **remade) for part, its in chunks])


@cache
def _liger() -> Callable[..., Tensor] | None:
    """Liger's cross entropy of each token from hidden states, in chunks; never run here: no GPU was at hand."""
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    fused: Callable[..., Tensor] = LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32)
    return fused


def _chunk(hidden: Tensor, output: nn.Module, targets: Tensor) -> Tensor:
    logprobs: Tensor = _Selected.apply(output(hidden).float(), targets)
    return logprobs


class _Selected(torch.autograd.Function):
    """log softmax(logits)[target], in the memory of the logits: they are lost, and become first e^logits, then their gradient.

    torch's own needs three more tensors of their size: the logarithms of all probabilities, a gradient that is zero but at the
    targets, and the gradient of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        top = logits.amax(-1, keepdim=True)
        selected = logits.gather(1, targets[:, None]) - top
        powers = logits.sub_(top).exp_()
        total = powers.sum(-1, keepdim=True)
        ctx.save_for_backward(powers, total, targets)
        return (selected - total.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        powers, total, targets = ctx.saved_tensors
        by_token = gradient[:, None]
        slope = powers.mul_(-by_token / total)
        return slope.scatter_add_(1, targets[:, None], by_token), None
