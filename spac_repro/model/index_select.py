"""Row selection whose backward pass gathers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class GatherIndex:
    """An index for `index_select`, with what its backward pass needs to gather gradients instead of scattering them.

    The backward pass of `index_select` scatters with a single thread. Gathering takes a fraction of the time and gives the same
    bits.
    """

    index: Tensor  # [N] the row to select; 0 for padding, which has no gradient
    first: Tensor  # [rows] where in `index` a row is selected for the first time; 0 if it never is
    repeats: Sequence[tuple[Tensor, Tensor]]  # rows selected a second time, and where; then those selected a third time, …
    unused: Tensor  # the rows that are never selected

    def select(self, rows: Tensor) -> Tensor:
        """Return the selected rows, [N, …], of a tensor [rows, …]."""
        selected: Tensor = _GatherRows.apply(rows, self)  # type: ignore[no-untyped-call]
        return selected


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, gather: GatherIndex) -> Tensor:
        ctx.gather = gather
        return rows.index_select(0, gather.index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.index_select(0, ctx.gather.first)
        if ctx.gather.repeats:
            total = total.float()  # sums of bfloat16 are rounded once, as in the backward pass of index_select
        for rows, slots in ctx.gather.repeats:
            total.index_copy_(0, rows, total.index_select(0, rows) + gradient.index_select(0, slots))
        return total.index_fill_(0, ctx.gather.unused, 0.0).to(gradient.dtype), None


def gather_index(index: Sequence[int], rows: int, tensor: Callable[[Any], Tensor]) -> GatherIndex:
    """Build the `GatherIndex` of an index.

    Args:
        index: [N] rows to select; −1 is padding.
        rows: number of rows of the tensors to select from.
        tensor: makes an integer tensor, on the right device, from numbers.
    """
    slots = np.flatnonzero(np.asarray(index) >= 0)
    slots = slots[np.argsort(np.asarray(index)[slots], kind="stable")]
    selected = np.asarray(index)[slots]
    starts = np.flatnonzero(np.diff(selected, prepend=-1))
    occurrence = np.arange(len(selected)) - np.repeat(
        starts, np.diff(starts, append=len(selected))
    )  # 0 for a row's first selection
    first = np.zeros(rows, dtype=int)
    first[selected[occurrence == 0]] = slots[occurrence == 0]
    repeats = range(1, int(occurrence.max(initial=0)) + 1)
    return GatherIndex(
        index=tensor(np.maximum(index, 0)),
        first=tensor(first),
        repeats=[(tensor(selected[occurrence == n]), tensor(slots[occurrence == n])) for n in repeats],
        unused=tensor(np.setdiff1d(np.arange(rows), selected)),
    )
