"""Greedy decoding of long prompts: the tokens of `generate`, for every architecture, whatever leaves the batch."""

import pytest
import torch

from spac_repro.evaluation.leaderboard import greedy
from spac_repro.model.policy import use_packed_attention

STOP, PAD = 3, 0


@pytest.mark.parametrize("name", greedy.ARCHITECTURES)
def test_the_tokens_are_those_of_generate(tiny_models, name):
    model = tiny_models[name].eval()
    use_packed_attention(model, "sdpa")
    assert greedy.serves(model)
    generator = torch.Generator().manual_seed(0)
    lengths = [9, 4, 12, 7, 12, 1]
    prompts = torch.full((len(lengths), 12), PAD)
    mask = torch.zeros_like(prompts)
    for row, length in enumerate(lengths):
        prompts[row, 12 - length :] = torch.randint(4, model.config.vocab_size, (length,), generator=generator)
        mask[row, 12 - length :] = 1
    with torch.no_grad():
        theirs = model.generate(
            input_ids=prompts, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=PAD, eos_token_id=None
        )
    ours = greedy.decode(model, prompts, mask, max_new_tokens=20, pad_token_id=PAD, has_ended=lambda answer: False)
    assert torch.equal(ours, theirs)
    # Rows that end leave the batch, and change no other row.
    ends = {tuple(theirs[row, 12 : 12 + 3 * row + 1].tolist()) for row in range(len(lengths))}
    cut = greedy.decode(model, prompts, mask, max_new_tokens=20, pad_token_id=PAD, has_ended=lambda answer: tuple(answer) in ends)
    for row in range(len(lengths)):
        first = next(n for n in range(1, 21) if tuple(theirs[row, 12 : 12 + n].tolist()) in ends)
        assert cut[row, 12 : 12 + first].tolist() == theirs[row, 12 : 12 + first].tolist()
        assert set(cut[row, 12 + first :].tolist()) <= {PAD}


def test_what_generate_alone_can_do_is_left_to_it(tiny_models):
    model = tiny_models["mistral"].eval()
    use_packed_attention(model, "sdpa")
    model.generation_config.repetition_penalty = 1.3
    try:
        assert not greedy.serves(model)
    finally:
        model.generation_config.repetition_penalty = None
    assert greedy.serves(model)
