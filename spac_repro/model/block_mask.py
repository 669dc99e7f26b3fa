"""The block mask of FlexAttention over a packed sequence, made strip by strip.

torch's `create_block_mask` holds the whole mask, [T, T], several times: 8 GB for 25,000 tokens. A strip of queries at a time gives
the same blocks and holds a part of that which does not grow with T².
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # tokens of a block, as FlexAttention has them unless it is told otherwise
STRIP = 8 * BLOCK  # queries of a strip

Attends = Callable[[Tensor | None, Tensor | None, Tensor, Tensor], Tensor]  # FlexAttention's (batch, head, query, key)


def create(attends: Attends, length: int, device: torch.device) -> BlockMask:
    """Make the block mask [1, 1, T, T] that `create_block_mask` makes.

    Args:
        attends: whether a query attends to a key; it must take tensors of any shape that broadcast, and no batch and head.
        length: T.
        device: where the mask lies.
    """
    strips = [_attended(attends, begin, length, device) for begin in range(0, length, STRIP)]
    attended = torch.cat(strips)[None, None]  # [1, 1, blocks, blocks]
    full = attended == BLOCK * BLOCK
    return BlockMask.from_kv_blocks(
        *_ordered((attended > 0) & ~full), *_ordered(full), BLOCK_SIZE=BLOCK, mask_mod=attends, seq_lengths=(length, length)
    )


def _attended(attends: Attends, begin: int, length: int, device: torch.device) -> Tensor:
    """The number of pairs that attend in each block of a strip, [blocks of the strip, blocks]."""
    end = min(begin + STRIP, length)
    query, key = torch.arange(begin, end, device=device)[:, None], torch.arange(length, device=device)[None]
    mask = attends(None, None, query, key)
    mask = torch.nn.functional.pad(mask, (0, -length % BLOCK, 0, (begin - end) % BLOCK))
    rows, columns = mask.shape
    return mask.view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).sum((1, 3))


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """FlexAttention's form of a choice of blocks: how many each row has; and the numbers of all, the chosen ones first."""
    chosen = blocks.to(torch.int32)
    return chosen.sum(-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).to(torch.int32)
