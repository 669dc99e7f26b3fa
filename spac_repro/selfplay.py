"""Self-play: one response of the current policy to every prompt, y′ ~ π_t(·|x)."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

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
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    was_training = model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        answer = model.generate(  # type: ignore[operator]  # the model class hides its mixin from mypy
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=longest_response,
            pad_token_id=pad,
            eos_token_id=stop,
        )
    model.train(was_training)
    return [_until(row, stop) for row in answer[:, width:].tolist()]


def _until(tokens: list[int], stop: int) -> list[int]:
    """The tokens up to and including the first `stop`."""
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens
