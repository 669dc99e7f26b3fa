"""Greedy decoding of long prompts on a CPU: what `generate` of transformers does, without copying its cache at every token.

`generate` joins each new token to keys and values by a copy of them all, and repeats them for every head of a group. With prompts
of a thousand tokens that takes most of the time. Here they lie in a buffer with room for the answer, and are read where they are.
Prompts are padded on the right while they are read, so that attention needs no mask and skips what a token does not see; `generate`
pads them on the left. Rows whose answer has ended leave the batch once they are a quarter of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from spac_repro.model.loading import check_finite
from spac_repro.model.policy import supports_packing

ARCHITECTURES = ("llama", "mistral", "qwen2")  # tests check each of them
# Settings of a model's generation that leave the likeliest token what it is; with any other one `generate` has to decode.
HARMLESS_SETTINGS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p", "max_length",
    "max_new_tokens", "transformers_version", "use_cache", "output_attentions", "output_hidden_states",
}  # fmt: skip


def serves(model: PreTrainedModel) -> bool:
    """Whether `decode` gives what `generate` gives: a model in fp32 on a CPU, whose generation has no further settings."""
    settings: Any = model.generation_config
    changed = {name for name in (settings.to_diff_dict() if settings else ()) if not name.startswith("_")}
    plain = model.dtype == torch.float32 and model.device.type == "cpu" and changed <= HARMLESS_SETTINGS
    return plain and supports_packing(model) and model.config.model_type in ARCHITECTURES


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Tensor,
    mask: Tensor,
    *,
    max_new_tokens: int,
    pad_token_id: int,
    has_ended: Callable[[Sequence[int]], bool],
) -> Tensor:
    """Take the likeliest token again and again, until every row has ended.

    Args:
        model: the model, which `serves` must accept.
        prompts: [n, w] left-padded prompts.
        mask: [n, w] 0 for padding.
        max_new_tokens: tokens of an answer at most.
        pad_token_id: what follows an answer that has ended.
        has_ended: whether an answer, as tokens, is at its end.

    Returns:
        [n, w + tokens of the longest answer] prompts and answers.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # those that are still in the batch
    going_on = [True] * len(prompts)
    lengths = mask.sum(-1)
    cache = DynamicCache()
    num_layers = model.config.get_text_config().num_hidden_layers
    cache.layers = [_BufferedLayer(lengths.tolist(), max_new_tokens) for _ in range(num_layers)]
    logits = _read(model, prompts, lengths, cache)
    positions = lengths[:, None] - 1
    for _ in range(max_new_tokens):
        likeliest = check_finite(logits, "the next token's logits").argmax(-1)
        for row, token in zip(rows, likeliest.tolist(), strict=True):
            if going_on[row]:
                answers[row].append(token)
                going_on[row] = not has_ended(answers[row])
        kept = [index for index, row in enumerate(rows) if going_on[row]]
        if not kept:
            break
        tokens, positions = likeliest[:, None], positions + 1
        mask = torch.cat([mask, torch.ones_like(tokens)], 1)
        if 4 * (len(rows) - len(kept)) >= len(rows):
            index = torch.tensor(kept)
            cache.batch_select_indices(index)
            rows, tokens, positions, mask = [rows[i] for i in kept], tokens[index], positions[index], mask[index]
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            grouped_decoding=True,
        )
        logits = output.logits[:, -1]
    longest = max(map(len, answers))
    padded = [[*answer, *[pad_token_id] * (longest - len(answer))] for answer in answers]
    return torch.cat([prompts, torch.tensor(padded, dtype=prompts.dtype)], 1)


def _read(model: PreTrainedModel, prompts: Tensor, lengths: Tensor, cache: DynamicCache) -> Tensor:
    """Read the prompts, [n, w] left-padded, into the cache; return the logits of the token after each, [n, vocabulary]."""
    width = prompts.shape[1]
    right_padded = prompts.gather(1, (torch.arange(width)[None] + (width - lengths)[:, None]) % width)
    output = model(input_ids=right_padded, past_key_values=cache, use_cache=True, logits_to_keep=lengths - 1)
    each = torch.arange(len(prompts))
    logits: Tensor = output.logits[each, each]
    return logits


class _BufferedLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' class has no types
    """Keys and values of a layer in a buffer that has room for the answers.

    Prompts come padded on the right and are stored padded on the left, so that the answers follow them.
    """

    def __init__(self, lengths: Sequence[int], room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prompt_lengths, self.room, self.length = lengths, room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the others, [n, heads, tokens, d]; return all, of prompts those given."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            n, heads, self.length, width = key_states.shape
            # Zeros, because a masked logit is −∞ whatever the key is, but 0 · NaN is NaN.
            self._buffers = [key_states.new_zeros(n, heads, self.length + self.room, width) for _ in range(2)]
            for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
                for row, tokens in enumerate(self.prompt_lengths):
                    buffer[row, :, self.length - tokens : self.length] = new[row, :, :tokens]
            self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
            return key_states, value_states
        begin, self.length = self.length, self.length + key_states.shape[-2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin : self.length] = new
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
