"""A response stops at each stop token: in self-play, in the data, in a saved model, and in the leaderboard's generations."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_families import FAMILIES, Family, make_model, make_tokenizer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM
from spac_repro.model import generation_config, policy
from spac_repro.recipe import DataSettings, SelfPlaySettings
from spac_repro.sampling import selfplay

LONGEST = 40
ROW = Preference(({"role": "user", "content": "say something"},), "good", "bad")


class Chat:
    """A chat model of a family, and the renderer of a recipe with its template."""

    def __init__(self, family: Family, template: str = "chat") -> None:
        self.family = family
        self.tokenizer = make_tokenizer(family.template, family.eos)
        self.model = make_model(family, self.tokenizer)
        settings: dict[str, Any] = {
            "source": "file", "name": None, "revision": None, "max_pairs": None, "prompt_template": template,
            "max_prompt_tokens": 200, "max_response_tokens": LONGEST, "overlong_prompts": "refuse", "world": None,
        }  # fmt: skip
        self.renderer = Renderer(self.tokenizer, DataSettings(**settings), generation_config.stop_token_ids(self.model))

    def respond(self, number: int) -> list[list[int]]:
        how = SelfPlaySettings(temperature=1.0, top_p=1.0, prompts_per_seed=64, decode_batch_size=None, backend="transformers")
        prompts = [self.renderer.prompt_ids(ROW)] * number
        return list(
            selfplay.sample_responses(
                self.model,
                prompts,
                how,
                max_response_tokens=LONGEST,
                pad_token_id=self.renderer.pad_token_id,
                stop_token_ids=self.renderer.stop_token_ids,
                seed=1,
            )
        )


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def chat(request: pytest.FixtureRequest, one_thread: None) -> Chat:
    return Chat(request.param)


def test_self_play_never_runs_on_past_a_stop_token(chat: Chat) -> None:
    responses = chat.respond(192)
    stops = chat.renderer.stop_token_ids
    assert {response[-1] for response in responses} >= set(stops)  # each of them was sampled
    assert any(response[-1] not in stops for response in responses)  # and some reached the limit
    for response in responses:
        assert not set(response[:-1]) & set(stops)
        assert response[-1] in stops or len(response) == LONGEST


def test_a_text_has_no_stop_token_and_loses_only_one(chat: Chat) -> None:
    a, b = chat.tokenizer.convert_tokens_to_ids(["a", "b"])
    for stop in chat.renderer.stop_token_ids:
        assert chat.renderer.decode([a, b, stop]) == chat.renderer.decode_verbatim([a, b, stop]) == "ab"
        assert chat.renderer.decode_verbatim([a, b, stop, stop]) == "ab\ufffd"
        assert chat.renderer.decode([stop]) == chat.renderer.decode_verbatim([stop]) == ""
    assert chat.renderer.decode([a, b]) == chat.renderer.decode_verbatim([a, b]) == "ab"


def test_a_stop_token_that_is_not_special_is_no_text(chat: Chat) -> None:
    """Some tokenizers mark the end of a turn as an ordinary added token, which `skip_special_tokens` keeps."""
    tokenizer = chat.tokenizer
    stop = tokenizer.convert_tokens_to_ids("<|eom_id|>")
    tokenizer.add_tokens(["<ordinary>"])
    renderer = Renderer(tokenizer, chat.renderer.settings, (len(tokenizer) - 1, stop))
    a = tokenizer.convert_tokens_to_ids("a")
    assert tokenizer.decode([len(tokenizer) - 1], skip_special_tokens=True) == "<ordinary>"
    assert renderer.decode([a, len(tokenizer) - 1]) == renderer.decode_verbatim([a, len(tokenizer) - 1]) == "a"


def test_data_and_self_play_end_alike(chat: Chat) -> None:
    """What was cut at the limit has no end, in the data and in self-play; anything else ends with one stop token."""
    short = chat.renderer.tokenize([ROW]).chosen[0]
    assert short[-1] == chat.renderer.end_token_id
    assert len([token for token in short if token in chat.renderer.stop_token_ids]) == 1
    most = LONGEST + 1 - len(chat.renderer.response_ids(ROW, "a"))  # Llama 2's template puts spaces around it
    for length in (most, most + 1, most + 2):
        row = Preference(ROW.prompt, "a" * length, "b")
        tokens = chat.renderer.tokenize([row]).chosen[0]
        assert len(tokens) == LONGEST
        assert (tokens[-1] == chat.renderer.end_token_id) == (length == most)


def test_a_saved_policy_stops_at_the_same_tokens_and_keeps_its_other_settings(chat: Chat, tmp_path: Path) -> None:
    before = copy.deepcopy(chat.model.generation_config)
    folder = tmp_path / "first"
    for folder in (tmp_path / "first", tmp_path / "second"):
        policy.save(chat.model, chat.tokenizer, folder, stop_token_ids=chat.renderer.stop_token_ids)
        chat.model, tokenizer = policy.load(folder)
    saved = chat.model.generation_config
    assert set(generation_config.stop_token_ids(chat.model)) == set(chat.renderer.stop_token_ids)
    assert generation_config.stop_token_ids_in(tmp_path / "second") == generation_config.stop_token_ids(chat.model)
    assert saved.pad_token_id == tokenizer.eos_token_id
    for name in ("do_sample", "temperature", "top_p", "repetition_penalty"):
        assert getattr(saved, name) == getattr(before, name)
    if len(chat.family.of_model) > 1:  # in the model's own order: transformers pads with the first where there is no other
        assert saved.eos_token_id[: len(chat.family.of_model)] == before.eos_token_id
    first, second = ((tmp_path / name / "generation_config.json").read_text() for name in ("first", "second"))
    assert first == second


def test_a_generation_config_that_transformers_refuses_to_save_is_kept(tmp_path: Path) -> None:
    """Published models have such settings; transformers writes them only where nothing was changed."""
    chat = Chat(FAMILIES["gemma, its turn end in the template only"])
    chat.model.generation_config.do_sample = False  # beside a temperature
    with pytest.raises(ValueError, match="do_sample"):
        chat.model.generation_config.save_pretrained(tmp_path)
    policy.save(chat.model, chat.tokenizer, tmp_path, stop_token_ids=chat.renderer.stop_token_ids)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"]) == (False, 0.6)
    assert set(saved["eos_token_id"]) == set(chat.renderer.stop_token_ids)


def test_stop_tokens_in_a_generation_config(one_thread: None, tmp_path: Path) -> None:
    chat = Chat(FAMILIES["gemma"])
    for given, found in ((None, ()), (3, (3,)), ([3, 5], (3, 5)), ([3, -1, 10**6], (3,))):
        chat.model.generation_config.eos_token_id = given
        assert generation_config.stop_token_ids(chat.model) == found
    for given, found in ((None, (chat.tokenizer.eos_token_id,)), ([3, 5], (3, 5))):
        chat.model.save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").unlink()
        if given:
            (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
        assert generation_config.stop_token_ids_in(tmp_path) == found
    for wrong in ("3", [3, "5"], [[3]], True, 3.0):
        chat.model.generation_config.eos_token_id = wrong
        with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id is .*; give the number") as refused:
            generation_config.stop_token_ids(chat.model)
        assert "\n" not in str(refused.value)


def answers(lm: Any, prompts: list[str]) -> list[str]:
    kwargs = {"until": ["\n\n"], "max_gen_toks": LONGEST, "do_sample": False}
    requests = [Instance("generate_until", {}, (prompt, dict(kwargs)), i) for i, prompt in enumerate(prompts)]
    return list(lm.generate_until(requests, disable_tqdm=True))


def test_generations_of_the_leaderboard_stop_at_the_same_tokens(chat: Chat, tmp_path: Path) -> None:
    """They are those of lm-eval on the saved folder, and what greedy decoding gives up to the first stop token."""
    policy.save(chat.model, chat.tokenizer, tmp_path, stop_token_ids=chat.renderer.stop_token_ids)
    model, tokenizer = policy.load(tmp_path)
    model.generation_config.repetition_penalty = None
    rng = random.Random(0)
    prompts = ["".join(rng.choices("abcdefghij ", k=9)) for _ in range(24)]
    found = answers(PackedHFLM(model, tokenizer, 4), prompts)
    assert found == answers(HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4), prompts)
    expected, stopped = [], 0
    for prompt in prompts:
        tokens = tokenizer(prompt).input_ids
        response: list[int] = []
        while len(response) < LONGEST and not set(response) & set(chat.renderer.stop_token_ids):
            with torch.no_grad():
                response.append(int(model(torch.tensor([[*tokens, *response]])).logits[0, -1].argmax()))
        stopped += len(response) < LONGEST
        expected.append(chat.renderer.decode(response).split("\n\n")[0])
    assert found == expected
    assert stopped > 0


def test_generations_stop_at_the_tokenizers_end_where_generation_config_names_others(one_thread: None) -> None:
    """lm-eval alone generates on, leaves the end out of the text, and so does not find it there."""
    chat = Chat(FAMILIES["gemma"])
    chat.model.generation_config.eos_token_id = chat.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    prompts = [letter * 9 for letter in "abcdefghijklmnopqrstuvwxyz"]
    found = answers(PackedHFLM(chat.model, chat.tokenizer, 4), prompts)
    chat.model.generation_config.eos_token_id = list(chat.renderer.stop_token_ids)
    assert found == answers(HFLM(pretrained=chat.model, tokenizer=copy.deepcopy(chat.tokenizer), batch_size=4), prompts)
    chat.model.generation_config.eos_token_id = chat.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert found != answers(HFLM(pretrained=chat.model, tokenizer=copy.deepcopy(chat.tokenizer), batch_size=4), prompts)
