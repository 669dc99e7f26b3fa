"""Log-probabilities of response tokens, from the last hidden states that predict them.

The logits, [tokens, vocabulary], are the largest tensor of a training step. They are computed for response tokens only, at most
`MAX_LOGITS` at once unless the output layer is sharded, and overwritten with what their gradient needs. On a GPU Liger's kernel
does this, where the extra `liger` is installed.
"""

from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from spac_repro.model import precision

# That of the extra. Liger 0.6.2 takes every token's gradient times that of the first: with `reduction="none"` it has no other.
LIGER_VERSION = "0.8.5"
MAX_LOGITS = 2**26  # logits in memory at once: 256 MB in fp32, for any vocabulary and length


def token_logprobs(
    hidden: Tensor,
    output: nn.Module,
    targets: Tensor,
    *,
    softcap: float | None = None,
    fused: bool = False,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    """Compute log softmax(output(hidden))[target] of each token.

    More than `max_logits` logits are computed in chunks, and again for the gradient. Under ZeRO-3 they are computed at once: every
    call of the output layer gathers its weight, and processes with unequally many chunks would wait for each other forever.

    Args:
        hidden: last hidden states that predict the targets, [tokens, width].
        output: the output layer, from width to vocabulary. Its backward pass must not need its output; a linear layer's does not.
        targets: token ids, [tokens].
        softcap: the bound c of c·tanh(logits/c), taken in fp32; None: no bound.
        fused: use Liger's kernel, see `liger_serves`.
        max_logits: logits in memory at once.

    Returns:
        [tokens], in nats, fp32.
    """
    if fused and isinstance(output, nn.Linear) and len(targets) and (losses := _liger_cross_entropy(softcap)) is not None:
        return -losses(output.weight, hidden, targets, output.bias).float()
    weight = getattr(output, "weight", None)
    is_sharded = hasattr(weight, "ds_id")  # by ZeRO-3
    # A vocabulary may be sharded or padded, so the number of logits is read from the layer's weight.
    size = max(1, max_logits // max(1, weight.shape[0] if isinstance(weight, Tensor) else 1))
    if is_sharded or len(targets) <= size:
        return _chunk_logprobs(hidden, output, targets, softcap)
    chunks = zip(hidden.split(size), targets.split(size), strict=True)  # type: ignore[no-untyped-call]
    if not torch.is_grad_enabled():
        return torch.cat([_chunk_logprobs(part, output, labels, softcap) for part, labels in chunks])
    recompute: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": precision.checkpoint_contexts}
    return torch.cat([checkpoint(_chunk_logprobs, part, output, labels, softcap, **recompute) for part, labels in chunks])


def liger_serves(device: torch.device, *, shards_weights: bool) -> bool:
    """Whether Liger's kernel computes the log-probabilities of a policy and of its reference.

    ρ is their difference, so both take the same kernel. The kernel reads the output layer's weight. An engine that shards weights
    gathers it only for the layer's own forward pass, so there neither takes the kernel.

    Args:
        device: where the policy is trained.
        shards_weights: whether the engine shards the weights of the trained policy.
    """
    return device.type == "cuda" and not shards_weights and _liger_cross_entropy(None) is not None


@cache
def _liger_cross_entropy(softcap: float | None) -> Callable[..., Tensor] | None:
    """Liger's fused linear cross entropy per token; None where Liger is not installed in `LIGER_VERSION`.

    This was never run: it needs a GPU.
    """
    try:
        if metadata.version("liger-kernel") != LIGER_VERSION:
            return None
    except metadata.PackageNotFoundError:
        return None
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused: Callable[..., Tensor] = LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32, softcap=softcap)
    return fused


def _chunk_logprobs(hidden: Tensor, output: nn.Module, targets: Tensor, softcap: float | None) -> Tensor:
    logprobs: Tensor = _SelectedLogSoftmax.apply(capped(output(hidden).float(), softcap), targets)  # type: ignore[no-untyped-call]
    return logprobs


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """c·tanh(logits/c); without a bound c, the logits themselves."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


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
