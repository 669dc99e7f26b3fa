"""Greedy decoding of long prompts on a CPU: what `generate` of transformers does, without copying its cache at every token.

`generate` joins each new token to keys and values by a copy of them all. With prompts of a thousand tokens that takes most of the
time of a token. Here they lie in a buffer with room for the answer.
Prompts are read one by one: each is long enough for the processor, none is padded, and attention needs no mask and so skips what a
token does not see. Rows whose answer has ended leave the batch once they are a quarter of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

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
    num_layers = model.config.get_text_config().num_hidden_layers
    cache = DynamicCache()
    cache.layers = [_BufferedLayer(len(prompts), prompts.shape[1], max_new_tokens) for _ in range(num_layers)]
    logits = torch.cat([_read(model, prompt[-length:], cache) for prompt, length in zip(prompts, lengths.tolist(), strict=True)])
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
        )
        logits = output.logits[:, -1]
    longest = max(map(len, answers))
    padded = [[*answer, *[pad_token_id] * (longest - len(answer))] for answer in answers]
    return torch.cat([prompts, torch.tensor(padded, dtype=prompts.dtype)], 1)


def _read(model: PreTrainedModel, prompt: Tensor, cache: DynamicCache) -> Tensor:
    """Read one prompt, [tokens], into the next row of the cache; return the logits of the token after it, [1, vocabulary]."""
    own = DynamicCache()
    own.layers = [DynamicLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    output = model(input_ids=prompt[None], past_key_values=own, use_cache=True, logits_to_keep=1)
    for layer, of_prompt in zip(cache.layers, own.layers, strict=True):
        cast("_BufferedLayer", layer).add_prompt(of_prompt)
    logits: Tensor = output.logits[:, -1]
    return logits


class _BufferedLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers' class has no types
    """Keys and values of a layer in a buffer that has room for the answers. Prompts are padded on the left, answers follow them.

    Args:
        rows: prompts.
        width: tokens of the longest.
        room: tokens of an answer at most.
    """

    def __init__(self, rows: int, width: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.length, self.room, self.filled = rows, width, room, 0

    def add_prompt(self, of_prompt: Any) -> None:
        """Put the keys and values of a prompt into the next row."""
        new = (of_prompt.keys, of_prompt.values)
        if not self.is_initialized:
            self.lazy_initialization(*new)
            _, heads, _, width = of_prompt.keys.shape
            # Zeros: padding is masked, but 0 · NaN would be NaN.
            self._buffers = [new[0].new_zeros(self.rows, heads, self.length + self.room, width) for _ in new]
        for buffer, its in zip(self._buffers, new, strict=True):
            buffer[self.filled, :, self.length - its.shape[2] : self.length] = its[0]
        self.filled += 1

    def update(self, key_states: Tensor, value_states: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the others, [n, heads, tokens, d]."""
        begin, self.length = self.length, self.length + key_states.shape[-2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin : self.length] = new
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens of prompt and answer, padding included."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
