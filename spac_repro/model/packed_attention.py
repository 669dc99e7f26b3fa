"""Attention over packed sequences, registered with transformers.

The layout of a packed sequence reaches attention through the interface that transformers offers for that purpose. On a CPU, prompts
and responses are attended in separate calls, each padded for that one operation only. On a GPU, FlexAttention takes the whole
sequence with a block mask. Both know sliding windows, which may differ between the layers of a model, and soft-capped logits.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spac_repro.model.packing import PackedLayout
from spac_repro.optim import gpu_host

# docs/decisions/06-packing.md: why a row is flat and why no model is patched.
ATTENTION = "shared_prompt"  # the name under which transformers finds `packed_attention`
MIN_HEAD_WIDTH = 16  # of FlexAttention on a GPU


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: PackedLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Compute attention over a packed sequence, as transformers calls it; without a layout, compute what the model's own does.

    Args:
        module: the attention layer.
        query: [1, heads, T, d].
        key: [1, key-value heads, T, d].
        value: [1, key-value heads, T, d].
        attention_mask: used only without a layout.
        layout: where prompts and responses lie.
        scaling: factor of the attention logits; None: 1/√d.
        sliding_window: number of tokens that a token attends to, itself included; None: no limit. Layers of one model may differ.
        softcap: bound of the attention logits; None: no bound.
        other: passed on to transformers' sdpa.

    Returns:
        [1, T, heads, d], and no attention weights.
    """
    if layout is not None:
        apply = flex_packed_attention if query.is_cuda else split_attention
        return apply(query, key, value, layout, scaling=scaling, window=sliding_window, softcap=softcap), None
    if softcap is not None:  # which sdpa refuses
        is_causal = attention_mask is None and query.shape[2] > 1
        output = softcapped_attention(query, key, value, attention_mask, scaling, softcap, is_causal=is_causal)
        return output.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **other
    )


def split_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Attend prompts and responses in separate calls, each padded to its longest; shapes as in `packed_attention`."""
    tables, n, m = layout.tables, len(layout.prompts), len(layout.responses)
    prompt_width, response_width = tables.prompt_width, tables.response_width
    q = tables.queries.select(query[0].transpose(0, 1))  # [n·P + m·R, heads, d]
    k, v = (tables.keys.select(tensor[0].transpose(0, 1)) for tensor in (key, value))  # [m·(P + R) + n·P, key-value heads, d]

    def attention(q: Tensor, k: Tensor, v: Tensor, batch: int, mask: Tensor | None) -> Tensor:
        q, k, v = (tensor.unflatten(0, (batch, -1)).transpose(1, 2) for tensor in (q, k, v))  # type: ignore[no-untyped-call]
        if softcap is None:
            output = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        else:
            output = softcapped_attention(q, k, v, mask, scaling, softcap, is_causal=mask is None)
        return output.transpose(1, 2).flatten(0, 1)

    q_split, kv_split = n * prompt_width, m * (prompt_width + response_width)
    prompts = attention(q[:q_split], k[kv_split:], v[kv_split:], n, layout.prompt_mask(window, query.dtype))
    responses = attention(q[q_split:], k[:kv_split], v[:kv_split], m, layout.response_mask(window, query.dtype))
    return tables.outputs.select(torch.cat([prompts, responses]))[None]


def softcapped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float, *, is_causal: bool
) -> Tensor:
    """Attention whose logits pass c·tanh(·/c) before the mask, as in Gemma 2. Computed in fp32, also under autocast.

    Args:
        query: [n, heads, T, d].
        key: [n, key-value heads, S, d].
        value: [n, key-value heads, S, d].
        mask: [n or 1, 1, T, S]: True where a token attends, or added to the logits.
        scaling: factor of the attention logits; None: 1/√d.
        softcap: the bound c.
        is_causal: without a mask: whether token t attends to tokens 0 to t only.

    Returns:
        [n, heads, T, d].
    """
    groups = query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = query.float(), key.float().repeat_interleave(groups, 1), value.float().repeat_interleave(groups, 1)
        logits = q @ k.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        logits = softcap * torch.tanh(logits / softcap)
        if mask is None and is_causal:
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if mask is not None:
            # Padding on the left may attend to nothing. Its output is never used, but with -inf it would be NaN.
            lowest = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~mask, lowest) if mask.dtype == torch.bool else logits + mask
        return (logits.softmax(-1) @ v).to(query.dtype)


def flex_packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Attend over the whole sequence with FlexAttention, which skips blocks that are masked out; shapes as in `packed_attention`.

    On a GPU it is compiled (bench/RESULTS.md says what ran there). Elsewhere it is torch's reference implementation, for tests.
    """
    attention: Callable[..., Any] = compiled_flex_attention() if query.is_cuda else flex_attention  # type: ignore[assignment]
    width = query.shape[-1]
    padding = (0, max(0, MIN_HEAD_WIDTH - width))  # zeros, which change no product
    output: Tensor = attention(
        *(pad(tensor, padding) for tensor in (query, key, value)),
        score_mod=_capped_score(softcap),
        block_mask=layout.block_mask(window),
        scale=width**-0.5 if scaling is None else scaling,
        enable_gqa=True,
        kernel_options={"BACKEND": "TRITON"},  # the same kernel for short rows, which would get one for decoding
    )
    return output[..., :width].transpose(1, 2)


@cache
def _capped_score(softcap: float | None) -> Callable[..., Tensor] | None:
    """FlexAttention's form of the bound of the attention logits."""
    if softcap is None:
        return None

    def score(logit: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(logit / softcap)

    return score


@cache
def compiled_flex_attention(backend: str = "inductor") -> Callable[..., Any]:
    """FlexAttention, compiled for every kind of layer: with a window or without, with gradients or without, short rows or long.

    Rows of other lengths and layouts need no compilation of their own. If they did, dynamo would at its limit of 8 turn to the
    reference implementation, which keeps all logits of a row; so a full graph is demanded, and the limit is out of reach.
    """
    gpu_host.set_cache_folders()
    dynamo: Any = import_module("torch._dynamo.config")
    dynamo.recompile_limit = max(32, dynamo.recompile_limit)
    dynamo.specialize_float = True  # the scale and the bound of the logits are constants; a variable bound cannot be traced
    inductor: Any = import_module("torch._inductor.config")
    inductor.compile_threads = 1  # there are few kernels; a pool would have up to 32 processes for each GPU of the node
    return torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=backend)


# Where no layout is given (generation, the leaderboard), the model is an ordinary sdpa model, masks included.
AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
