"""Self-play: one response of the current policy to every prompt, y′ ~ π_t(·|x)."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel, TemperatureLogitsWarper, TopPLogitsWarper

from spac_repro import processes
from spac_repro.recipe import SelfPlay
from spac_repro.runs import write_json
from spac_repro.seeds import derive


def respond(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SelfPlay,
    *,
    longest_response: int,
    pad: int,
    stop: int,
    seed: int,
    folder: Path | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """One sampled response to each prompt, in tokens, up to and including `stop` (absent where the limit came first).

    Prompts are taken in batches of like length. Every batch has a seed of its own and, with `folder`, is kept there when done:
    an interrupted call goes on after the last finished batch, and its result is that of an uninterrupted one. Processes divide the
    batches among them; each keeps its own, and all get every response.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    batches = [order[begin : begin + settings.batch_size] for begin in range(0, len(order), settings.batch_size)]
    own: dict[int, list[list[int]]] = {}
    for number, batch in processes.mine(list(enumerate(batches))):
        advance(number, len(batches))
        kept = folder / f"batch-{number:05d}.json" if folder else None
        if kept and kept.exists():
            sampled = json.loads(kept.read_text())
        else:
            texts = [prompts[i] for i in batch]
            sampled = _sample(model, texts, settings, longest_response, pad=pad, stop=stop, seed=derive(seed, number))
            if kept:
                write_json(kept, sampled)
        own[number] = sampled
    responses: list[list[int]] = [[] for _ in prompts]
    for number, sampled in processes.gather(own).items():
        for i, response in zip(batches[number], sampled, strict=True):
            responses[i] = response
    advance(len(batches), len(batches))
    return responses


def forget(folder: Path) -> None:
    """Drop the finished batches, once their responses are stored elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


@torch.no_grad()
def _sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: SelfPlay,
    longest_response: int,
    *,
    pad: int,
    stop: int,
    seed: int,
) -> list[list[int]]:
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        responses = _decode(model, prompts, settings, longest_response, pad=pad, stop=stop)
    model.train(was_training)
    return responses


def _decode(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: SelfPlay, longest_response: int, *, pad: int, stop: int
) -> list[list[int]]:
    """Token by token, like transformers' generate; but a finished response leaves the batch, and costs nothing any more."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    warp = _warpers(settings)
    cache = DynamicCache(config=model.config)
    responses: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))  # the response of each row of the batch
    for _ in range(longest_response):
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        scores: Any = output.logits[:, -1].float()
        probabilities = warp(cast("Any", ids), scores).softmax(-1)
        tokens = torch.multinomial(probabilities, 1)
        for response, token in zip(going, tokens[:, 0].tolist(), strict=True):
            responses[response].append(token)
        ids, mask, positions = tokens, torch.cat([mask, torch.ones_like(tokens)], 1), positions[:, -1:] + 1
        unfinished = (tokens[:, 0] != stop).nonzero()[:, 0]
        if len(unfinished) < len(going):
            going = [going[row] for row in unfinished.tolist()]
            if not going:
                break
            cache.batch_select_indices(unfinished)
            ids, mask, positions = ids[unfinished], mask[unfinished], positions[unfinished]
    return responses


def _warpers(settings: SelfPlay) -> LogitsProcessorList:
    """What changes the distribution before a token is drawn: nothing at temperature 1 and top-p 1."""
    warpers = LogitsProcessorList()
    if settings.temperature != 1:
        warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers
