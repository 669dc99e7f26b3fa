"""Text and tokens: what holds between a person's text and a row of tokens, for every kind of tokenizer (docs/text.md)."""

import copy

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizer_zoo import ZOO, every_tokenizer

from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer, TokenizedPreferences
from spac_repro.errors import UserError
from spac_repro.recipe import DataSettings

FRAMES = ("plain", "instruction", "chat")
CHANGING = ("WordPiece", "words", "Unigram", "the built-in world's")  # white space, case or letters are not kept

WORDS = [
    "The",
    "the",
    " a",
    " ",
    "\n",
    "\n\n",
    "  ",
    ".",
    ":",
    "4",
    "é",
    "e\u0301",
    "世界",
    "👩‍👧",
    "\u200b",
    "playing",
    "unx",
    "<",
    "|>",
    "sort:",
]
NAMES = [
    "<s>",
    "</s>",
    "<unk>",
    "<|im_end|>",
    "<|im_start|>",
    "[INST]",
    "[SEP]",
    "[CLS]",
    "<|endoftext|>",
    "<think>",
    "<|assistant|>\n",
]
plain_text = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)
any_text = st.lists(st.sampled_from(WORDS + NAMES) | st.text(max_size=3), max_size=8).map("".join)
quick = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def renderer(name: str, frame: str, prompt: int = 400, response: int = 400) -> Renderer:
    return Renderer(
        ZOO[name](),
        DataSettings(
            source="file", name=None, revision=None, max_pairs=None, prompt_template=frame, max_prompt_tokens=prompt,
            max_response_tokens=response, overlong_prompts="truncate", world=None,
        ),
    )  # fmt: skip


def unknown(its: Renderer) -> int | None:
    """The token that stands for what the vocabulary lacks."""
    tokenizer = its.tokenizer
    return tokenizer.pad_token_id if tokenizer is ZOO["the built-in world's"]() else tokenizer.unk_token_id


def keeps(its: Renderer, text: str) -> bool:
    """Whether the tokenizer has tokens for all of a text; SmolLM2's lacks some bytes."""
    return its.tokenizer.decode(its._encoder.encode("Q" + text).ids) == "Q" + text


def row(prompt: str, chosen: str = "a", rejected: str = "b") -> Preference:
    return Preference(({"role": "user", "content": prompt},), chosen, rejected)


def tokenize(its: Renderer, given_row: Preference) -> TokenizedPreferences:
    """The row in tokens; a row with an empty response is no example."""
    try:
        return its.tokenize([given_row])
    except UserError as refused:
        assume("is empty once it is rendered" not in str(refused))
        raise


@pytest.fixture(scope="module")
def renderers() -> dict[tuple[str, str], Renderer]:
    return {}


@pytest.fixture(params=FRAMES)
def its(request, renderers, name) -> Renderer:
    """The renderer of a tokenizer and a frame; made once."""
    key = (name, request.param)
    if key not in renderers:
        renderers[key] = renderer(*key)
    return renderers[key]


def joint_text(its: Renderer, prompt: str, response: str) -> str:
    """The text of a row without names of special tokens, as a person would write it, with the end token."""
    tokenizer = its.tokenizer
    end = tokenizer.convert_ids_to_tokens(its.end_token_id)
    if its.settings.prompt_template == "plain":
        return prompt + response + end
    if its.settings.prompt_template == "instruction":
        return f"### Instruction: {prompt}\n\n### Response: {response}{end}"
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return text[: text.rindex(end) + len(end)]


def anew(its: Renderer, text: str) -> list[int]:
    """What the tokenizer itself makes of a text; a token that it puts behind every text (`[SEP]`) is left out."""
    chat = its.settings.prompt_template == "chat"
    ids = list(its.tokenizer(text, add_special_tokens=not chat).input_ids)
    while len(ids) > 1 and ids[-2:] == [its.end_token_id] * 2:
        ids.pop()
    return ids


@pytest.mark.parametrize("name", every_tokenizer())
@quick
@given(prompt=plain_text, response=plain_text)
def test_encoding_the_text_anew_gives_the_row_unless_a_token_straddles(its, prompt, response):
    prompt = "Q" + prompt
    tokenized = tokenize(its, row(prompt, response))
    found = [*tokenized.prompt[0], *tokenized.chosen[0]]
    assert tokenized.prompt[0] == its.prompt_ids(row(prompt))
    assert tokenized.chosen[0] == its.response_ids(row(prompt), response)
    text = joint_text(its, prompt, response)
    if tokenized.summary.counts.get("straddled", 0) == 0:
        assert found == anew(its, text)
    decode = its.tokenizer.decode
    if unknown(its) not in found:  # two unknown letters may be one token
        assert "".join(decode(found).split()) == "".join(decode(anew(its, text)).split())


@pytest.mark.parametrize("name", every_tokenizer())
@quick
@given(prompt=any_text, response=any_text)
def test_no_text_begins_or_ends_anything(its, prompt, response):
    prompt = "Q" + prompt
    tokens = its.prompt_ids(row(prompt)), its.response_ids(row(prompt), response)
    empty = its.prompt_ids(row("Q")), its.response_ids(row("Q"), "")
    special = {*its.tokenizer.all_special_ids, *its.stop_token_ids} - {unknown(its)}
    for found, frame in zip(tokens, empty, strict=True):
        assert [t for t in found if t in special] == [t for t in frame if t in special]
    assert tokens[1][-1] == its.end_token_id
    assert not set(its.stop_token_ids) & set(tokens[1][:-1])


@pytest.mark.parametrize("name", every_tokenizer())
@quick
@given(prompt=any_text, response=any_text)
def test_decoding_gives_the_text(its, name, prompt, response):
    prompt = "Q" + prompt
    told = its.decode(its.response_ids(row(prompt), response))
    if name in CHANGING:
        again = its.decode(its.response_ids(row(prompt), told))
        assert "".join(again.split()) == "".join(its._without_end(told).split())  # what was behind an end may be lost
    elif its.settings.prompt_template != "plain" or not prompt[-1].isspace():
        assert not keeps(its, response) or told == its._without_end(response)


@pytest.mark.parametrize("name", every_tokenizer())
@quick
@given(prompt=any_text, response=any_text)
def test_data_encoded_anew_as_samples_are_the_same(its, name, prompt, response):
    given_row = row("Q" + prompt)
    tokens = its.response_ids(given_row, response)
    if not tokenize(its, row("Q" + prompt, response)).summary.counts.get("straddled"):
        known = unknown(its) not in tokens and (name in CHANGING or keeps(its, response))
        assert not known or its.re_encode(given_row, tokens) == tokens
        cut = its.re_encode(given_row, tokens[:-1])
        assert not cut or cut[-1] not in its.stop_token_ids


@pytest.mark.parametrize("name", every_tokenizer())
@quick
@given(prompt=any_text, response=any_text, room=st.integers(4, 30), limit=st.integers(1, 12))
@example(prompt="", response="The" * 6 + "00\U00040000", room=4, limit=11)  # SmolLM2's tokenizer lacks this character's first byte
def test_truncation_keeps_the_frame_and_whole_characters(its, name, prompt, response, room, limit):
    frame = its.prompt_ids(row("Q"))
    short = copy.copy(its)
    short.settings = its.settings.model_copy(update={"max_prompt_tokens": len(frame) + room, "max_response_tokens": limit})
    given_row = row("Q" + prompt + response)
    full, cut = its.prompt_ids(given_row), short.prompt_ids(given_row)
    assert len(cut) <= len(frame) + room
    assert cut == full or len(full) > len(cut)
    assert cut[: len(its._prefix)] == its._prefix
    assert not set(its.tokenizer.all_special_ids) - {unknown(its)} & set(cut) - set(frame)
    if its.settings.prompt_template != "plain":  # what is behind the question
        assert cut[-2:] == frame[-2:]
        behind = its.tokenizer.decode(frame).rpartition("Q")[2]
        assert name in CHANGING or its.tokenizer.decode(cut).endswith(behind)
    answer, all_of_it = short.response_ids(given_row, response), its.response_ids(given_row, response)
    if len(all_of_it) <= limit:
        assert answer == all_of_it
    else:
        assert answer == all_of_it[: len(answer)]
        assert 0 < len(answer) <= limit
        assert answer[-1] not in short.stop_token_ids
        if name not in CHANGING and keeps(its, response) and limit > 10:  # no character has more tokens
            assert "\ufffd" not in its.decode(answer)
