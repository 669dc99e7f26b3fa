"""The copy of a tokenizer that encodes rows: settings with which a tokenizer would lose an end, lose letters or draw lots."""

from typing import Any

import pytest
from tokenizer_zoo import CHATML, CORPUS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer
from spac_repro.recipe import DataSettings

FRAMES = ("plain", "instruction", "chat")


def make_renderer(frame: str, model: Any = None, pad: str = "<|im_start|>", **options: Any) -> Renderer:
    """Byte-level BPE whose special tokens have these options."""
    inner = Tokenizer(model or models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    start, end = (AddedToken(name, special=True, **options) for name in ("<|im_start|>", "<|im_end|>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=end, pad_token=pad, extra_special_tokens=[start], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHATML
    settings = DataSettings(
        source="file", name=None, revision=None, max_pairs=None, prompt_template=frame, max_prompt_tokens=400,
        max_response_tokens=400, overlong_prompts="truncate", world=None,
    )  # fmt: skip
    return Renderer(tokenizer, settings)


def row(prompt: str = "Name it") -> Preference:
    return Preference(({"role": "user", "content": prompt},), "a", "b")


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("options", [{"single_word": True}, {"lstrip": True}, {"rstrip": True}])
def test_a_response_ends_whatever_the_end_token_asks_of_its_neighbours(frame, options):
    its = make_renderer(frame, **options)
    tokens = its.response_ids(row(), "Red")
    assert its.tokenizer.decode(tokens).strip() == "Red<|im_end|>"
    assert tokens[-1] == its.end_token_id


@pytest.mark.parametrize("frame", FRAMES)
def test_a_letter_that_fills_up_rows_is_still_a_letter(frame):
    its = make_renderer(frame, pad="!")
    assert "Name it!" in its.tokenizer.decode(its.prompt_ids(row("Name it!")))
    assert its.tokenizer.decode(its.response_ids(row(), "Red! Blue!")).strip() == "Red! Blue!<|im_end|>"


def test_dropout_is_no_part_of_a_row():
    """Dropped merges would make other rows in each run, and tokens that no policy writes."""
    with_dropout, without = make_renderer("chat", models.BPE(dropout=0.9)), make_renderer("chat")
    text = "The answer is a colour. " * 4
    assert with_dropout.response_ids(row(), text) == without.response_ids(row(), text)
    assert with_dropout.prompt_ids(row(text)) == without.prompt_ids(row(text))
