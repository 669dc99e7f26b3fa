"""One prompt, many responses, computed once.

A preference has two or three responses to the same prompt. Here the prompt's tokens stand in a row once, its responses follow, and
the next prompt follows those: nothing is computed twice, and nothing for padding outside of attention. Each response attends to its
prompt and to itself, at positions that go on from the prompt's. The log-probabilities are those of every response computed alone.

The layout reaches attention through the interface that transformers offers for that purpose. On a CPU prompts and responses are
attended apart, each padded for that one operation only; on a GPU FlexAttention takes the whole row with a block mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spac_repro.data.groups import Group

ATTENTION = "shared_prompt"  # the name under which transformers finds `attend`


@dataclass(frozen=True)
class Taken:
    """Which rows of a tensor are taken, and where each row's gradient is to be found.

    index_select's own gradient is scattered, by one thread; gathered, it takes a fraction of the time, and is the same to the bit.
    """

    places: Tensor  # [N] the row taken; 0 for padding, which has no gradient
    first: Tensor  # [rows] where a row was taken for the first time; 0 where it never was
    again: Sequence[tuple[Tensor, Tensor]]  # rows that were taken once more, and where; then those taken a third time, …
    never: Tensor  # the rows that were never taken

    def of(self, rows: Tensor) -> Tensor:
        """The rows taken, [N, …]."""
        taken: Tensor = _Take.apply(rows, self)
        return taken


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, taken: Taken) -> Tensor:
        ctx.taken = taken
        return rows.index_select(0, taken.places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.index_select(0, ctx.taken.first)
        if ctx.taken.again:
            total = total.float()  # sums of bfloat16 are rounded once, as index_select's own are
        for rows, places in ctx.taken.again:
            total.index_copy_(0, rows, total.index_select(0, rows) + gradient.index_select(0, places))
        return total.index_fill_(0, ctx.taken.never, 0.0).to(gradient.dtype), None


def take(places: Sequence[int], rows: int, tensor: Callable[[Any], Tensor]) -> Taken:
    """Take of so many rows those at some places; −1 is padding."""
    slots = np.flatnonzero(np.asarray(places) >= 0)
    slots = slots[np.argsort(np.asarray(places)[slots], kind="stable")]
    taken = np.asarray(places)[slots]
    begins = np.flatnonzero(np.diff(taken, prepend=-1))
    times = np.arange(len(taken)) - np.repeat(begins, np.diff(begins, append=len(taken)))  # how often a row was taken before
    first = np.zeros(rows, dtype=int)
    first[taken[times == 0]] = slots[times == 0]
    return Taken(
        places=tensor(np.maximum(places, 0)),
        first=tensor(first),
        again=[(tensor(taken[times == n]), tensor(slots[times == n])) for n in range(1, int(times.max(initial=0)) + 1)],
        never=tensor(np.setdiff1d(np.arange(rows), taken)),
    )


@dataclass(frozen=True)
class Layout:
    """Where n prompts and m responses lie in a row of T tokens; every index of padding is 0, and is masked or dropped."""

    prompts: Tensor  # [n, P] places of the prompts' tokens
    responses: Tensor  # [m, R] places of the responses' tokens
    prompt_lengths: Tensor  # [m] of each response's prompt
    queries: Taken  # [n·P + m·R] the tokens that ask: prompts, then responses
    keys: Taken  # [m·(P + R) + n·P] whom they may ask: each response its prompt and itself; then the prompts among themselves
    results: Taken  # [T] where a token's result lies among those of the queries
    positions: Tensor  # [T] of a token in its own sequence
    groups: Tensor  # [T] which group a token belongs to …
    branches: Tensor  # [T] … and there to which response; −1 for its prompt
    _masks: dict[Any, Any] = field(default_factory=dict)

    def prompt_mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive, [1, 1, P, P]; None where being causal says it all: padding stands last, and nothing else looks there."""
        width = self.prompts.shape[1]
        if window is None or width <= window:
            return None
        place = torch.arange(width, device=self.prompts.device)
        distance = place[:, None] - place[None, :]
        mask: Tensor = self._once(
            ("prompt", window, dtype), lambda: _additive((distance >= 0) & (distance < window), dtype)[None, None]
        )
        return mask

    def response_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive, [m, 1, R, P + R]."""
        key = ("response", window, dtype)
        mask: Tensor = self._once(key, lambda: _additive(self._response_attends(window), dtype)[:, None])
        return mask

    def block_mask(self, window: int | None) -> BlockMask:
        """Who attends to whom in the whole row, [1, 1, T, T] in blocks."""

        def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            related = (self.branches[key] == -1) | (self.branches[key] == self.branches[query])
            distance = self.positions[query] - self.positions[key]
            near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            return (self.groups[key] == self.groups[query]) & related & near

        length = len(self.positions)
        mask: BlockMask = self._once(
            ("block", window), lambda: create_block_mask(attends, None, None, length, length, device=self.positions.device)
        )
        return mask

    def _response_attends(self, window: int | None) -> Tensor:
        before, width = self.prompts.shape[1], self.responses.shape[1]
        device = self.prompts.device
        given, place = torch.arange(before, device=device), torch.arange(width, device=device)
        length = self.prompt_lengths[:, None, None]
        prompt = (given < length).expand(-1, width, -1)
        itself = (place[:, None] >= place[None, :]).expand(len(self.responses), -1, -1)
        if window is not None:
            prompt = prompt & (length + place[:, None] - given < window)
            itself = itself & (place[:, None] - place[None, :] < window)
        return torch.cat([prompt, itself], -1)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._masks:
            self._masks[key] = make()
        return self._masks[key]


def _additive(attends: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill_(~attends, float("-inf"))


@dataclass(frozen=True)
class Packed:
    """A row of T tokens with m responses of S tokens in all."""

    ids: Tensor  # [1, T]
    positions: Tensor  # [1, T]
    predictors: Tensor  # [S] the place whose output predicts a response token …
    targets: Tensor  # [S] … which is this one …
    owners: Tensor  # [S] … of this response
    responses: int  # m
    layout: Layout

    def alone(self, response: int) -> tuple[Tensor, Tensor, Tensor]:
        """One response after its prompt: their places in the row; of what counts, the predictors among those; its targets."""
        groups, branches = self.layout.groups, self.layout.branches
        its = self.layout.responses[response, 0]
        places = ((groups == groups[its]) & ((branches == -1) | (branches == branches[its]))).nonzero()[:, 0]
        counted = self.owners == response
        return places, torch.searchsorted(places, self.predictors[counted]), self.targets[counted]


def pack(groups: Sequence[Group], *, device: torch.device | str = "cpu") -> Packed:
    """Lay groups end to end in one row; responses are numbered in the order in which they stand."""
    row = _Row()
    for group in groups:
        row.add(group)
    return row.packed(partial(torch.as_tensor, dtype=torch.long, device=device))


class _Row:
    """A row in the making."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.groups: list[int] = []
        self.branches: list[int] = []
        self.predictors: list[int] = []
        self.targets: list[int] = []
        self.owners: list[int] = []
        self.prompts: list[range] = []
        self.responses: list[range] = []
        self.prompt_of: list[int] = []  # of each response

    def add(self, group: Group) -> None:
        number = len(self.prompts)
        prompt = self._lay(group.prompt, position=0, group=number, branch=-1)
        self.prompts.append(prompt)
        for branch, response in enumerate(group.responses):
            place = self._lay(response, position=len(prompt), group=number, branch=branch)
            counted = group.counted[branch] if group.counted else [True] * len(response)
            # The prompt's last token predicts the first of the response, and each of those the next.
            for target, before, counts in zip(response, [prompt[-1], *place[:-1]], counted, strict=False):
                if counts:
                    self.predictors.append(before)
                    self.targets.append(target)
                    self.owners.append(len(self.responses))
            self.responses.append(place)
            self.prompt_of.append(number)

    def _lay(self, tokens: Sequence[int], *, position: int, group: int, branch: int) -> range:
        begin = len(self.ids)
        self.ids += tokens
        self.positions += range(position, position + len(tokens))
        self.groups += [group] * len(tokens)
        self.branches += [branch] * len(tokens)
        return range(begin, begin + len(tokens))

    def packed(self, tensor: Callable[[Any], Tensor]) -> Packed:
        return Packed(
            ids=tensor(self.ids)[None],
            positions=tensor(self.positions)[None],
            predictors=tensor(self.predictors),
            targets=tensor(self.targets),
            owners=tensor(self.owners),
            responses=len(self.responses),
            layout=self._layout(tensor),
        )

    def _layout(self, tensor: Callable[[Any], Tensor]) -> Layout:
        prompts, responses = _padded(self.prompts), _padded(self.responses)
        queries = [*chain(*prompts), *chain(*responses)]
        keys = [*chain(*(prompts[of] + own for of, own in zip(self.prompt_of, responses, strict=True))), *chain(*prompts)]
        places = {place: slot for slot, place in enumerate(queries)}
        return Layout(
            prompts=tensor(np.maximum(prompts, 0)),
            responses=tensor(np.maximum(responses, 0)),
            prompt_lengths=tensor([len(self.prompts[of]) for of in self.prompt_of]),
            queries=take(queries, len(self.ids), tensor),
            keys=take(keys, len(self.ids), tensor),
            results=take([places[token] for token in range(len(self.ids))], len(queries), tensor),
            positions=tensor(self.positions),
            groups=tensor(self.groups),
            branches=tensor(self.branches),
        )


def _padded(places: Sequence[range]) -> list[list[int]]:
    width = max(map(len, places), default=0)
    return [[*its, *[-1] * (width - len(its))] for its in places]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attention over a packed row, as transformers calls it; without a layout, what its own sdpa does.

    Args:
        query: [1, heads, T, d]. key, value: [1, key-value heads, T, d].

    Returns:
        [1, T, heads, d], and no attention weights.
    """
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **other
        )
    apply = attend_whole if query.is_cuda else attend_apart
    return apply(query, key, value, layout, scaling=scaling, window=sliding_window), None


def attend_apart(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scaling: float | None, window: int | None) -> Tensor:
    """Prompts and responses each in a call of their own, padded to the longest; shapes as in `attend`."""
    (n, before), (m, width) = layout.prompts.shape, layout.responses.shape
    q = layout.queries.of(query[0].transpose(0, 1))  # [n·P + m·R, heads, d]
    k, v = (layout.keys.of(tensor[0].transpose(0, 1)) for tensor in (key, value))  # [m·(P + R) + n·P, key-value heads, d]

    def attention(q: Tensor, k: Tensor, v: Tensor, number: int, mask: Tensor | None) -> Tensor:
        q, k, v = (tensor.unflatten(0, (number, -1)).transpose(1, 2) for tensor in (q, k, v))
        result = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        return result.transpose(1, 2).flatten(0, 1)

    asked = m * (before + width)
    prompts = attention(q[: n * before], k[asked:], v[asked:], n, layout.prompt_mask(window, query.dtype))
    responses = attention(q[n * before :], k[:asked], v[:asked], m, layout.response_mask(window, query.dtype))
    return layout.results.of(torch.cat([prompts, responses]))[None]


def attend_whole(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scaling: float | None, window: int | None) -> Tensor:
    """The row at once, in blocks of which only those are computed in which somebody attends; shapes as in `attend`.

    Compiled on a GPU, where it was never run: no GPU was at hand. Elsewhere it is torch's reference implementation, for tests.
    """
    attention: Callable[..., Any] = _compiled() if query.is_cuda else flex_attention  # type: ignore[assignment]
    result: Tensor = attention(query, key, value, block_mask=layout.block_mask(window), scale=scaling, enable_gqa=True)
    return result.transpose(1, 2)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


# Where no layout is given (generation, the leaderboard), the model is an ordinary sdpa model, masks included.
AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
