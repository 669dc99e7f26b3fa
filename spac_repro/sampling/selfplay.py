"""Self-play: one response of the current policy to every prompt, y′ ~ π_t(·|x)."""

import shutil
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel, TemperatureLogitsWarper, TopPLogitsWarper

from spac_repro.data import mapped
from spac_repro.optim import distributed
from spac_repro.recipe import SelfPlaySettings
from spac_repro.runs.files import read_json, write_json
from spac_repro.seeds import derive_seed


def respond(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SelfPlaySettings,
    *,
    max_response_tokens: int,
    pad: int,
    stop: int,
    seed: int,
    folder: Path | None = None,
    sample: Callable[[Sequence[Sequence[int]], int], list[list[int]]] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Sequence[list[int]]:
    """One sampled response to each prompt, in tokens, up to and including `stop` (absent where the limit came first).

    Prompts are sorted by length and taken in batches of `settings.prompts_per_save`. Every batch has a seed of its own. With
    `folder`, its responses are saved there once all of them are complete: an interrupted call resumes after the last saved batch,
    and its result is that of an uninterrupted one. Of a batch, `settings.decode_batch_size` prompts are decoded at the same time.
    Processes divide the batches among them; each keeps its own, and all get every response. Another sampler may be given: it is
    called with a batch's prompts and its seed.
    """
    if sample is None:
        sample = partial(_sample, model, settings, max_response_tokens, pad, stop)
    lengths = mapped.lengths(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], i))
    batches = [order[begin : begin + settings.prompts_per_save] for begin in range(0, len(order), settings.prompts_per_save)]
    own: dict[int, list[array[int]]] = {}
    for number, batch in distributed.shard(list(enumerate(batches))):
        advance(number, len(batches))
        kept = folder / f"batch-{number:05d}.json" if folder else None
        if kept and kept.exists():
            sampled = read_json(kept)
        else:
            sampled = sample([prompts[i] for i in batch], derive_seed(seed, number))
            if kept:
                write_json(kept, sampled)
        own[number] = [array("i", response) for response in sampled]  # 4 bytes a token, where a list takes 36
    responses: list[array[int]] = [array("i")] * len(prompts)
    for number, sampled in distributed.all_gather(own).items():
        for i, response in zip(batches[number], sampled, strict=True):
            responses[i] = response
    advance(len(batches), len(batches))
    return mapped.token_columns(([response] for response in responses), ["response"])["response"]


def forget(folder: Path) -> None:
    """Drop the finished batches, once their responses are stored elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


@torch.no_grad()
def _sample(
    model: PreTrainedModel,
    settings: SelfPlaySettings,
    max_response_tokens: int,
    pad: int,
    stop: int,
    prompts: Sequence[Sequence[int]],
    seed: int,
) -> list[list[int]]:
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        responses = _decode(model, prompts, settings, max_response_tokens, pad=pad, stop=stop)
    model.train(was_training)
    return responses


def _decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SelfPlaySettings,
    max_response_tokens: int,
    *,
    pad: int,
    stop: int,
) -> list[list[int]]:
    """Token by token, like transformers' generate; but a finished response leaves the rows, and a waiting prompt takes its place.

    Prompts come in together, once a quarter of the places is free: few forward passes over prompts, and few empty places.
    """
    warp = _warpers(settings)
    responses: list[list[int]] = [[] for _ in prompts]
    decode_batch_size = settings.decode_batch_size or len(prompts)
    waiting = list(range(len(prompts)))
    rows = _Rows([])

    def step(rows: _Rows) -> None:
        tokens = torch.multinomial(warp(cast("Any", rows.ids), rows.scores(model)).softmax(-1), 1)
        for response, token in zip(rows.going, tokens[:, 0].tolist(), strict=True):
            responses[response].append(token)
        rows.extend(tokens)
        going = [response[-1] != stop and len(response) < max_response_tokens for response in (responses[i] for i in rows.going)]
        rows.keep(torch.tensor(going, device=tokens.device).nonzero()[:, 0])

    while waiting or rows.going:
        free = decode_batch_size - len(rows.going)
        if waiting and 4 * free >= decode_batch_size:
            new = _Rows.of(prompts, waiting[:free], pad, model.device)
            waiting = waiting[free:]
            step(new)
            rows.join(new)
        else:
            step(rows)
    return responses


@dataclass
class _Rows:
    """The responses that are being written: n rows, padded on the left to w tokens, and their keys and values."""

    going: list[int]  # which prompt a row belongs to
    ids: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, tokens not in the cache yet)
    mask: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, w)
    positions: Tensor = field(default_factory=lambda: torch.empty(0))  # like ids
    # Without the model's configuration: its cache would forget what a sliding window has passed, and could not be joined. The
    # window itself is the mask's business.
    cache: DynamicCache = field(default_factory=DynamicCache)

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], which: list[int], pad: int, device: torch.device) -> "_Rows":
        chosen = [prompts[i] for i in which]
        width = max(map(len, chosen))
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in chosen], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in chosen], device=device)
        return cls(which, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))

    def scores(self, model: PreTrainedModel) -> Tensor:
        """The logits of each row's next token, (n, vocabulary), in fp32; the cache takes the tokens in."""
        output = model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float()

    def extend(self, tokens: Tensor) -> None:
        """Each row by one token, (n, 1)."""
        self.ids, self.positions = tokens, self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], 1)

    def keep(self, rows: Tensor) -> None:
        """Only the rows with these numbers."""
        if len(rows) == len(self.going):
            return
        self.going = [self.going[row] for row in rows.tolist()]
        self.cache.batch_select_indices(rows)
        self.ids, self.mask, self.positions = self.ids[rows], self.mask[rows], self.positions[rows]

    def join(self, other: "_Rows") -> None:
        """Take the rows of another in, behind these."""
        if not (self.going and other.going):
            vars(self).update(vars(other if other.going else self))
            return
        width = max(self.mask.shape[1], other.mask.shape[1])
        for ours, theirs in zip(self._layers, other._layers, strict=True):
            ours.keys = torch.cat([_widened(ours.keys, width - 1, -2), _widened(theirs.keys, width - 1, -2)])
            ours.values = torch.cat([_widened(ours.values, width - 1, -2), _widened(theirs.values, width - 1, -2)])
        self.mask = torch.cat([_widened(self.mask, width, -1), _widened(other.mask, width, -1)])
        self.ids, self.positions = torch.cat([self.ids, other.ids]), torch.cat([self.positions, other.positions])
        self.going = self.going + other.going
        self._trim()

    @property
    def _layers(self) -> list[Any]:
        """Keys and values of each layer, [n, heads, w − 1, d]: a cache made without a configuration has no other kinds."""
        return list(self.cache.layers)

    def _trim(self) -> None:
        """Without the columns on the left that are padding in every row: the longest may have left."""
        empty = int(self.mask.any(0).nonzero()[0])
        if empty:
            self.mask = self.mask[:, empty:]
            for layer in self._layers:
                layer.keys, layer.values = layer.keys[..., empty:, :], layer.values[..., empty:, :]


def _widened(tensor: Tensor, width: int, dimension: int) -> Tensor:
    """Zeros on the left of a dimension, up to a width."""
    missing = list(tensor.shape)
    missing[dimension] = width - tensor.shape[dimension]
    return torch.cat([tensor.new_zeros(missing), tensor], dimension)


def _warpers(settings: SelfPlaySettings) -> LogitsProcessorList:
    """What changes the distribution before a token is drawn: nothing at temperature 1 and top-p 1."""
    warpers = LogitsProcessorList()
    if settings.temperature != 1:
        warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers
