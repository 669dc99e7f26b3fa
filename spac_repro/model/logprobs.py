"""Log-probabilities of response tokens, from the last hidden states that predict them.

The logits, [tokens, vocabulary], are the largest tensor of a training step. They are computed for response tokens only, at most
`MAX_LOGITS` at once, and overwritten with what their gradient needs. On a GPU Liger's kernel does this, where the extra `liger` is
installed.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from spac_repro.model import precision

MAX_LOGITS = 2**26  # logits in memory at once: 256 MB in fp32, for any vocabulary and length


def token_logprobs(hidden: Tensor, output: nn.Module, targets: Tensor, *, max_logits: int = MAX_LOGITS) -> Tensor:
    """Compute log softmax(output(hidden))[target] of each token.

    More than `max_logits` logits are computed in chunks, and again for the gradient.

    Args:
        hidden: last hidden states that predict the targets, [tokens, width].
        output: the output layer, from width to vocabulary. Its backward pass must not need its output; a linear layer's does not.
        targets: token ids, [tokens].
        max_logits: logits in memory at once.

    Returns:
        [tokens], in nats, fp32.
    """
    # ZeRO-3 shards the weight outside of the layer; its parameters have a ds_id.
    is_unsharded = isinstance(output, nn.Linear) and not hasattr(output.weight, "ds_id")
    if hidden.is_cuda and is_unsharded and len(targets) and (losses := _liger_cross_entropy()) is not None:
        return -losses(output.weight, hidden, targets, output.bias).float()
    # A vocabulary may be sharded or padded, so the number of logits is read from the layer's weight.
    weight = getattr(output, "weight", None)
    size = max(1, max_logits // max(1, weight.shape[0] if isinstance(weight, Tensor) else 1))
    if len(targets) <= size:
        return _chunk_logprobs(hidden, output, targets)
    chunks = zip(hidden.split(size), targets.split(size), strict=True)  # type: ignore[no-untyped-call]
    if not torch.is_grad_enabled():
        return torch.cat([_chunk_logprobs(part, output, labels) for part, labels in chunks])
    recompute: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": precision.checkpoint_contexts}
    return torch.cat([checkpoint(_chunk_logprobs, part, output, labels, **recompute) for part, labels in chunks])


@cache
def _liger_cross_entropy() -> Callable[..., Tensor] | None:
    """Liger's fused linear cross entropy per token; None where Liger is not installed.

    This was never run, because no GPU was available.
    """
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    fused: Callable[..., Tensor] = LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32)
    return fused


def _chunk_logprobs(hidden: Tensor, output: nn.Module, targets: Tensor) -> Tensor:
    logprobs: Tensor = _SelectedLogSoftmax.apply(output(hidden).float(), targets)  # type: ignore[no-untyped-call]
    return logprobs


class _SelectedLogSoftmax(torch.autograd.Function):
    """log softmax(logits)[target], computed in place: the logits are overwritten with e^logits, and these with their gradient.

    torch's own operations need three more tensors of that size: all log-probabilities, a gradient that is zero except at the
    targets, and the gradient of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        top = logits.amax(-1, keepdim=True)
        selected = logits.gather(1, targets[:, None]) - top
        exponentials = logits.sub_(top).exp_()
        total = exponentials.sum(-1, keepdim=True)
        ctx.save_for_backward(exponentials, total, targets)
        return (selected - total.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exponentials, total, targets = ctx.saved_tensors
        token_gradient = gradient[:, None]
        logit_gradient = exponentials.mul_(-token_gradient / total)
        return logit_gradient.scatter_add_(1, targets[:, None], token_gradient), None
