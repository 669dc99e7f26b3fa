"""Packing: several prompts, each with all its responses, in one sequence; a prompt is computed once for all of its responses.

A preference has two or three responses to the same prompt. In a packed sequence the prompt's tokens stand once, its responses
follow, and then comes the next prompt. Each response attends to its prompt and to itself, and its position ids continue the
prompt's. The log-probabilities equal those of every response computed in a sequence of its own.

Terms: a *document* is one prompt with its responses; a *segment* is the prompt or one response of a document.

model/packed_attention.py computes attention over such a sequence; here are its tokens and the layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from spac_repro.data.example import TokenizedExample
from spac_repro.model import block_mask
from spac_repro.model.index_select import GatherIndex, gather_index


@dataclass(frozen=True)
class GatherTables:
    """The rows that attention gathers where it computes prompts and responses apart: on a CPU.

    P and R are the lengths of the longest prompt and response. Padding is masked or dropped.
    """

    prompt_width: int  # P
    response_width: int  # R
    prompt_lengths: Tensor  # [m] length of each response's prompt
    queries: GatherIndex  # [n·P + m·R] query tokens: prompts, then responses
    keys: GatherIndex  # [m·(P + R) + n·P] key tokens: for each response its prompt and itself; then the prompts
    outputs: GatherIndex  # [T] each token's index among the queries


@dataclass(frozen=True)
class PackedLayout:
    """Where n prompts and m responses lie in a packed sequence of T tokens."""

    prompts: Sequence[range]  # [n] the tokens of each prompt
    responses: Sequence[range]  # [m] the tokens of each response
    prompt_of: Sequence[int]  # [m] the number of each response's prompt
    position_ids: Tensor  # [T] position of a token in its prompt followed by its response
    document_ids: Tensor  # [T] the document that a token belongs to
    segment_ids: Tensor  # [T] the segment of the document: −1 for its prompt, else the number of the response
    _masks: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def tables(self) -> GatherTables:
        """The rows to gather. They take most of the time of packing, so they are made where they are used."""
        prompts, responses = _padded(self.prompts), _padded(self.responses)
        queries = [*chain(*prompts), *chain(*responses)]
        with_prompts = (prompts[prompt] + response for prompt, response in zip(self.prompt_of, responses, strict=True))
        keys = [*chain(*with_prompts), *chain(*prompts)]
        query_of = {token: query for query, token in enumerate(queries)}
        length = len(self.position_ids)
        tensor = partial(torch.as_tensor, dtype=torch.long, device=self.position_ids.device)
        return GatherTables(
            prompt_width=len(prompts[0]),
            response_width=len(responses[0]),
            prompt_lengths=tensor([len(self.prompts[prompt]) for prompt in self.prompt_of]),
            queries=gather_index(queries, length, tensor),
            keys=gather_index(keys, length, tensor),
            outputs=gather_index([query_of[token] for token in range(length)], len(queries), tensor),
        )

    def prompt_mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask of the prompts' attention, [1, 1, P, P]; None where causal attention needs no more.

        Padding follows a prompt's tokens, so a causal mask hides it.
        """
        width = self.tables.prompt_width
        if window is None or width <= window:
            return None
        position = torch.arange(width, device=self.position_ids.device)
        distance = position[:, None] - position[None, :]
        mask: Tensor = self._cached(
            ("prompt", window, dtype), lambda: _additive_mask((distance >= 0) & (distance < window), dtype)[None, None]
        )
        return mask

    def response_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive mask of the responses' attention, [m, 1, R, P + R]."""
        key = ("response", window, dtype)
        mask: Tensor = self._cached(key, lambda: _additive_mask(self._response_attends(window), dtype)[:, None])
        return mask

    def block_mask(self, window: int | None) -> BlockMask:
        """Block mask of the whole sequence's attention, [1, 1, T, T]."""

        def attends(row: Tensor | None, head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
            same_segment = (self.segment_ids[key] == -1) | (self.segment_ids[key] == self.segment_ids[query])
            distance = self.position_ids[query] - self.position_ids[key]
            in_window = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            return (self.document_ids[key] == self.document_ids[query]) & same_segment & in_window

        length = len(self.position_ids)
        mask: BlockMask = self._cached(("block", window), lambda: block_mask.create(attends, length, self.position_ids.device))
        return mask

    def _response_attends(self, window: int | None) -> Tensor:
        tables, device = self.tables, self.position_ids.device
        response_width = tables.response_width
        prompt_position = torch.arange(tables.prompt_width, device=device)
        position = torch.arange(response_width, device=device)
        prompt_length = tables.prompt_lengths[:, None, None]
        to_prompt = (prompt_position < prompt_length).expand(-1, response_width, -1)
        to_itself = (position[:, None] >= position[None, :]).expand(len(self.responses), -1, -1)
        if window is not None:
            to_prompt = to_prompt & (prompt_length + position[:, None] - prompt_position < window)
            to_itself = to_itself & (position[:, None] - position[None, :] < window)
        return torch.cat([to_prompt, to_itself], -1)

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._masks:
            self._masks[key] = make()
        return self._masks[key]


def _additive_mask(attends: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill_(~attends, float("-inf"))


@dataclass(frozen=True)
class PackedSequence:
    """A packed sequence of T tokens, with m responses of which S tokens count towards log-probabilities."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    logit_index: Tensor  # [S] index of the token whose output predicts a counted response token
    targets: Tensor  # [S] that response token
    response_numbers: Tensor  # [S] the number of its response
    num_responses: int  # m
    layout: PackedLayout

    def unpack(self, response: int) -> tuple[Tensor, Tensor, Tensor]:
        """Extract one response with its prompt.

        Returns:
            The indices of prompt and response in the packed sequence, [tokens]; and for the response's counted tokens: which of
            these indices predict them, and the tokens themselves.
        """
        layout = self.layout
        tokens = [*layout.prompts[layout.prompt_of[response]], *layout.responses[response]]
        index = torch.tensor(tokens, device=self.input_ids.device)
        counted = self.response_numbers == response
        return index, torch.searchsorted(index, self.logit_index[counted]), self.targets[counted]


def pack(examples: Sequence[TokenizedExample], *, device: torch.device | str = "cpu") -> PackedSequence:
    """Pack examples into one sequence; responses are numbered in their order."""
    builder = _SequenceBuilder()
    for example in examples:
        builder.add(example)
    return builder.build(partial(torch.as_tensor, dtype=torch.long, device=device))


class _SequenceBuilder:
    """Collects the tokens of a packed sequence."""

    def __init__(self) -> None:
        self.input_ids: list[int] = []
        self.position_ids: list[int] = []
        self.document_ids: list[int] = []
        self.segment_ids: list[int] = []
        self.logit_index: list[int] = []
        self.targets: list[int] = []
        self.response_numbers: list[int] = []
        self.prompts: list[range] = []
        self.responses: list[range] = []
        self.prompt_of: list[int] = []  # the number of each response's prompt

    def add(self, example: TokenizedExample) -> None:
        document = len(self.prompts)
        prompt = self._append(example.prompt, position=0, document=document, segment=-1)
        self.prompts.append(prompt)
        for segment, response in enumerate(example.responses):
            span = self._append(response, position=len(prompt), document=document, segment=segment)
            loss_mask = example.loss_mask[segment] if example.loss_mask else [True] * len(response)
            # The prompt's last token predicts the first of the response, and each of those the next.
            for target, previous, counts in zip(response, [prompt[-1], *span[:-1]], loss_mask, strict=False):
                if counts:
                    self.logit_index.append(previous)
                    self.targets.append(target)
                    self.response_numbers.append(len(self.responses))
            self.responses.append(span)
            self.prompt_of.append(document)

    def _append(self, tokens: Sequence[int], *, position: int, document: int, segment: int) -> range:
        begin = len(self.input_ids)
        self.input_ids += tokens
        self.position_ids += range(position, position + len(tokens))
        self.document_ids += [document] * len(tokens)
        self.segment_ids += [segment] * len(tokens)
        return range(begin, begin + len(tokens))

    def build(self, tensor: Callable[[Any], Tensor]) -> PackedSequence:
        return PackedSequence(
            input_ids=tensor(self.input_ids)[None],
            position_ids=tensor(self.position_ids)[None],
            logit_index=tensor(self.logit_index),
            targets=tensor(self.targets),
            response_numbers=tensor(self.response_numbers),
            num_responses=len(self.responses),
            layout=PackedLayout(
                prompts=self.prompts,
                responses=self.responses,
                prompt_of=self.prompt_of,
                position_ids=tensor(self.position_ids),
                document_ids=tensor(self.document_ids),
                segment_ids=tensor(self.segment_ids),
            ),
        )


def _padded(spans: Sequence[range]) -> list[list[int]]:
    width = max(map(len, spans), default=0)
    return [[*span, *[-1] * (width - len(span))] for span in spans]
