"""Self-play responses: one response sampled from the previous iterate for every prompt, y′ ~ π_{t−1}(·|x)."""

import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel, TemperatureLogitsWarper

from spac_repro.data import memory_map
from spac_repro.errors import UserError
from spac_repro.model.loading import check_finite
from spac_repro.optim import distributed
from spac_repro.recipe import SelfPlaySettings
from spac_repro.runs.files import read_sealed_json, write_sealed_json
from spac_repro.sampling.top_p import TopP
from spac_repro.seeds import derive_seed


def sample_responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SelfPlaySettings,
    *,
    max_response_tokens: int,
    pad_token_id: int,
    stop_token_ids: Sequence[int],
    seed: int,
    folder: Path | None = None,
    computed_from: Mapping[str, Any] | None = None,
    sample: Callable[[Sequence[Sequence[int]], int], list[list[int]]] | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Sequence[list[int]]:
    """Sample one response to each prompt.

    Prompts are sorted by length and divided into batches of `settings.prompts_per_seed`, of which `settings.decode_batch_size` are
    decoded at the same time. Every batch has its own seed. Processes divide the batches among them; each returns all responses.

    Args:
        model: the policy, unless `sample` is given.
        prompts: token ids.
        settings: temperature, top-p and batch sizes.
        max_response_tokens: the longest response, the stop token included.
        pad_token_id: fills up rows; masked everywhere.
        stop_token_ids: each of them ends a response.
        seed: the seed that every batch's seed is derived from.
        folder: where each process stores its finished batches. An interrupted call continues after them, with the same result as an
            uninterrupted one.
        computed_from: what the responses come from; stored batches that come from something else are sampled again.
        sample: another sampler, called with the prompts and the seed of a batch.
        advance: called with (batches done, batches in all).

    Returns:
        The token ids of each response, memory-mapped, up to and including its stop token. A response that reached
        `max_response_tokens` may lack one. The stop token is the sampled one, even where the data's responses end with another:
        so y′ is a sample of the policy, and log π(y′|x) its log-probability.
    """
    if sample is None:
        sample = partial(_sample_batch, model, settings, max_response_tokens, pad_token_id, frozenset(stop_token_ids))
    lengths = memory_map.lengths(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], i))
    batches = [order[begin : begin + settings.prompts_per_seed] for begin in range(0, len(order), settings.prompts_per_seed)]
    own: dict[int, list[array[int]]] = {}
    for number, batch in distributed.shard(list(enumerate(batches))):
        advance(number, len(batches))
        file = folder / f"batch-{number:05d}.json" if folder else None
        source = {**(computed_from or {}), "batch": number, "seed": seed}
        sampled = _saved_batch(file, source) if file else None
        if sampled is None:
            sampled = sample([prompts[i] for i in batch], derive_seed(seed, number))
            if file:
                write_sealed_json(file, sampled, computed_from=source)
        own[number] = [array("i", response) for response in sampled]  # 4 bytes a token, where a list takes 36
    responses: list[array[int]] = [array("i")] * len(prompts)
    for number, done in distributed.all_gather(own).items():
        for i, response in zip(batches[number], done, strict=True):
            responses[i] = response
    advance(len(batches), len(batches))
    return memory_map.token_columns(([response] for response in responses), ["response"])["response"]


def _saved_batch(path: Path, source: Mapping[str, Any]) -> list[list[int]] | None:
    """Read a saved batch; None where there is none, or it is damaged or comes from something else."""
    try:
        return list(read_sealed_json(path, computed_from=source)) if path.exists() else None
    except UserError:
        return None


def delete_batches(folder: Path) -> None:
    """Delete the finished batches, once their responses are stored elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


@torch.no_grad()
def _sample_batch(
    model: PreTrainedModel,
    settings: SelfPlaySettings,
    max_response_tokens: int,
    pad_token_id: int,
    stop_token_ids: frozenset[int],
    prompts: Sequence[Sequence[int]],
    seed: int,
) -> list[list[int]]:
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    # Without `devices`, torch would warn and start every GPU of the node in every process.
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        responses = _decode(model, prompts, settings, max_response_tokens, pad_token_id=pad_token_id, stop_token_ids=stop_token_ids)
    model.train(was_training)
    return responses


def _decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SelfPlaySettings,
    max_response_tokens: int,
    *,
    pad_token_id: int,
    stop_token_ids: frozenset[int],
) -> list[list[int]]:
    """Decode token by token with continuous batching: a finished response leaves the batch, and a waiting prompt takes its place.

    New prompts enter together, once a quarter of the batch is free: few forward passes over prompts, and few empty rows.
    """
    warp = _logits_warpers(settings)
    responses: list[list[int]] = [[] for _ in prompts]
    decode_batch_size = settings.decode_batch_size or len(prompts)
    waiting = list(range(len(prompts)))
    batch = _DecodingBatch([])

    def unfinished(response: list[int]) -> bool:
        return response[-1] not in stop_token_ids and len(response) < max_response_tokens

    def step(batch: _DecodingBatch) -> None:
        tokens = torch.multinomial(warp(cast("Any", batch.input_ids), batch.next_token_logits(model)).softmax(-1), 1)
        for prompt, token in zip(batch.prompt_numbers, tokens[:, 0].tolist(), strict=True):
            responses[prompt].append(token)
        batch.append(tokens)
        going_on = [unfinished(responses[prompt]) for prompt in batch.prompt_numbers]
        batch.keep(torch.tensor(going_on, device=tokens.device).nonzero()[:, 0])

    while waiting or batch.prompt_numbers:
        free = decode_batch_size - len(batch.prompt_numbers)
        if waiting and 4 * free >= decode_batch_size:
            new = _DecodingBatch.of_prompts(prompts, waiting[:free], pad_token_id, model.device)
            waiting = waiting[free:]
            step(new)
            batch.merge(new)
        else:
            step(batch)
    return responses


@dataclass
class _DecodingBatch:
    """n responses that are being decoded, left-padded to a width of w tokens, with their key-value cache."""

    prompt_numbers: list[int]  # the prompt of each row
    input_ids: Tensor = field(default_factory=lambda: torch.empty(0))  # [n, tokens not in the cache yet]
    attention_mask: Tensor = field(default_factory=lambda: torch.empty(0))  # [n, w]
    position_ids: Tensor = field(default_factory=lambda: torch.empty(0))  # like input_ids
    # Made without the model's configuration: otherwise it would drop what a sliding window has passed, and batches could not be
    # merged. The attention mask takes care of the window.
    cache: DynamicCache = field(default_factory=DynamicCache)

    @classmethod
    def of_prompts(
        cls, prompts: Sequence[Sequence[int]], numbers: list[int], pad_token_id: int, device: torch.device
    ) -> "_DecodingBatch":
        chosen = [prompts[i] for i in numbers]
        width = max(map(len, chosen))
        input_ids = torch.tensor([[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in chosen], device=device)
        attention_mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in chosen], device=device)
        return cls(numbers, input_ids, attention_mask, (attention_mask.cumsum(-1) - 1).clamp(min=0))

    def next_token_logits(self, model: PreTrainedModel) -> Tensor:
        """Run the model on the new tokens, [n, vocabulary] in fp32; the cache stores them."""
        output = model(
            input_ids=self.input_ids,
            attention_mask=self.attention_mask,
            position_ids=self.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return check_finite(logits.float(), "the next token's logits")

    def append(self, tokens: Tensor) -> None:
        """Append one token to each row, [n, 1]."""
        self.input_ids, self.position_ids = tokens, self.position_ids[:, -1:] + 1
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(tokens)], 1)

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        if len(rows) == len(self.prompt_numbers):
            return
        self.prompt_numbers = [self.prompt_numbers[row] for row in rows.tolist()]
        self.cache.batch_select_indices(rows)
        self.input_ids, self.attention_mask = self.input_ids[rows], self.attention_mask[rows]
        self.position_ids = self.position_ids[rows]

    def merge(self, other: "_DecodingBatch") -> None:
        """Append the rows of another batch."""
        if not (self.prompt_numbers and other.prompt_numbers):
            vars(self).update(vars(other if other.prompt_numbers else self))
            return
        width = max(self.attention_mask.shape[1], other.attention_mask.shape[1])
        for ours, theirs in zip(self.layers, other.layers, strict=True):
            ours.keys = torch.cat([_pad_left(ours.keys, width - 1, -2), _pad_left(theirs.keys, width - 1, -2)])
            ours.values = torch.cat([_pad_left(ours.values, width - 1, -2), _pad_left(theirs.values, width - 1, -2)])
        self.attention_mask = torch.cat([_pad_left(self.attention_mask, width, -1), _pad_left(other.attention_mask, width, -1)])
        self.input_ids = torch.cat([self.input_ids, other.input_ids])
        self.position_ids = torch.cat([self.position_ids, other.position_ids])
        self.prompt_numbers = self.prompt_numbers + other.prompt_numbers
        self._trim()

    @property
    def layers(self) -> list[Any]:
        """Keys and values of each layer, [n, heads, w − 1, d]; a cache made without a configuration has no other kinds."""
        return list(self.cache.layers)

    def _trim(self) -> None:
        """Drop the columns on the left that are padding in every row; the longest row may have left."""
        empty = int(self.attention_mask.any(0).nonzero()[0])
        if empty:
            self.attention_mask = self.attention_mask[:, empty:]
            for layer in self.layers:
                layer.keys, layer.values = layer.keys[..., empty:, :], layer.values[..., empty:, :]


def _pad_left(tensor: Tensor, width: int, dimension: int) -> Tensor:
    """Pad a dimension with zeros on the left, up to a width."""
    missing = list(tensor.shape)
    missing[dimension] = width - tensor.shape[dimension]
    return torch.cat([tensor.new_zeros(missing), tensor], dimension)


def _logits_warpers(settings: SelfPlaySettings) -> LogitsProcessorList:
    """Temperature and top-p; empty where both are 1."""
    warpers = LogitsProcessorList()
    if settings.temperature != 1:
        warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_p < 1:
        warpers.append(TopP(settings.top_p))
    return warpers
