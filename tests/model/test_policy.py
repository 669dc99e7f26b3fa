"""Log-probabilities against a slow second implementation, token by token; models made, loaded, refused, hashed."""

import copy
import json
from importlib import metadata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.data import tokenizers, world
from spac_repro.data.example import TokenizedExample
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.model import policy, trusted_folder
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.policy_settings import ArchitectureSettings, PolicySettings

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 37  # of the tiny models
MODELS = ("llama", "mistral", "qwen2")
TINY = ArchitectureSettings(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=None,
    max_position_embeddings=64,
)


def draw(length: int, seed: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


# Prompt and response lengths: shorter and longer than Mistral's window of 4, an empty response, one token of each.
LENGTHS = [(1, 1), (3, 6), (11, 2), (5, 0), (1, 9), (12, 8)]
EXCHANGES = [(draw(p, 10 * p + r), draw(r, 77 + 10 * p + r)) for p, r in LENGTHS]


def logprobs(model, exchanges) -> torch.Tensor:
    """log π(y|x) of pairs of one prompt and one response."""
    return Policy(model)(pack([TokenizedExample(prompt, [response]) for prompt, response in exchanges]))


@pytest.fixture(scope="module")
def by_definition(tiny_models, slow_logprob):
    """log π(y|x) of the exchanges, for each model."""
    with torch.no_grad():
        return {name: torch.stack([slow_logprob(model, *pair) for pair in EXCHANGES]) for name, model in tiny_models.items()}


# Log-probabilities


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_logprobs_equal_the_definition(tiny_models, by_definition, name, attention):
    """In a packed row; and, where the attention is one that knows no rows, one by one."""
    model = copy.deepcopy(tiny_models[name])
    if attention == "eager":
        model.set_attn_implementation("eager")
    assert policy.supports_packing(model) == (attention == "sdpa")
    found = logprobs(model, EXCHANGES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_definition[name], rtol=1e-5, atol=2e-5)
    assert by_definition[name].abs().max() > 10  # far from what any mistake of a token would leave unchanged


def test_an_architecture_that_is_not_known_to_pack_is_computed_one_by_one(slow_logprob):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4)
    model = policy.use_packed_attention(GPT2LMHeadModel(shape).eval(), "sdpa")
    assert not policy.supports_packing(model)
    with torch.no_grad():
        expected = torch.stack([slow_logprob(model, *pair) for pair in EXCHANGES])
    torch.testing.assert_close(logprobs(model, EXCHANGES).double(), expected, rtol=1e-5, atol=2e-5)


def test_an_empty_response_has_logprob_0(tiny_models):
    found = logprobs(tiny_models["llama"], [([1, 2], []), ([1], [3, 4])])
    assert found[0] == 0
    assert found[1] < 0
    assert (logprobs(tiny_models["llama"], [([1, 2], [])]) == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_the_definition(tiny_models, slow_logprob, name):
    model = copy.deepcopy(tiny_models[name])
    weights = torch.linspace(-1, 2, len(EXCHANGES))

    def gradient(value):
        model.zero_grad()
        value.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    fast = gradient((weights * logprobs(model, EXCHANGES)).sum())
    slow = gradient(sum(weight * slow_logprob(model, *pair) for weight, pair in zip(weights, EXCHANGES, strict=True)))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_other_responses_in_the_sequence_change_nothing(tiny_models, name):
    plain = logprobs(tiny_models[name], EXCHANGES)
    longer = logprobs(tiny_models[name], [(draw(30, 1), draw(10, 2)), *EXCHANGES])
    torch.testing.assert_close(longer[1:], plain, rtol=1e-5, atol=2e-5)


def test_logprobs_condition_on_the_prompt(tiny_models):
    """log π(y|x) = log π(xy|first token) − log π(x|first token)."""
    prompt, response = EXCHANGES[-1]
    asked = [EXCHANGES[-1], (prompt[:1], [*prompt[1:], *response]), (prompt[:1], prompt[1:])]
    answer, all_of_it, question = logprobs(tiny_models["qwen2"], asked).double()
    assert answer.item() == pytest.approx((all_of_it - question).item(), rel=1e-5)


def test_the_window_is_shorter_than_the_sequences(tiny_models, by_definition):
    """Otherwise the comparison would say nothing about sliding windows."""
    assert tiny_models["mistral"].config.sliding_window == 4
    wide = copy.deepcopy(tiny_models["mistral"])
    wide.config.sliding_window = None
    assert (logprobs(wide, EXCHANGES).double() - by_definition["mistral"]).abs()[-1] > 0.1


def test_sums_are_in_fp32_where_the_model_is_in_bf16(tiny_models):
    model = copy.deepcopy(tiny_models["llama"]).to(torch.bfloat16)
    response = draw(300, 3)
    found = logprobs(model, [([1], response)])
    assert found.dtype == torch.float32
    logits = model(input_ids=torch.tensor([[1, *response]])).logits[0, :-1]
    exact = logits.double().log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum()
    assert found.item() == pytest.approx(exact.item(), rel=2e-4)  # attention in bf16 rounds otherwise in a row


# Making, saving, loading


def settings(**changes) -> PolicySettings:
    given = {
        "source": "random",
        "name": "mistral",
        "revision": None,
        "num_parameters": None,
        "architecture": TINY,
        "dtype": "float32",
        "attn_implementation": "sdpa",
    }
    return PolicySettings(**{**given, **changes})


def test_random_weights_are_a_function_of_the_seed_and_disturb_no_other_draw():
    torch.manual_seed(5)
    first, again, other = (policy.weights_sha256(policy.create_initial(settings(), seed=seed)[0]) for seed in (1, 1, 2))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert first == again != other


def test_a_saved_policy_comes_back_bit_for_bit(tmp_path):
    model, tokenizer = policy.create_initial(settings(), seed=0)
    model.generation_config.temperature = 0.2
    policy.save(model, tokenizer, tmp_path)
    back, its_tokenizer = policy.load(tmp_path, settings())
    assert policy.weights_sha256(back) == policy.weights_sha256(model)
    assert its_tokenizer("sort:badge=").input_ids == tokenizer("sort:badge=").input_ids
    assert back.generation_config.temperature == 0.2
    assert back.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not list(tmp_path.glob("*.bin"))


def test_the_hash_is_of_the_tensors_and_not_of_the_files(tmp_path):
    model, tokenizer = policy.create_initial(settings(), seed=0)
    before = policy.weights_sha256(model)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert policy.weights_sha256(policy.load(tmp_path)[0]) == before
    with torch.no_grad():
        weight = model.lm_head.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))  # the smallest change there is
    assert policy.weights_sha256(model) != before
    assert policy.weights_sha256(model.to(torch.bfloat16)) != policy.weights_sha256(model.to(torch.float32))


def test_the_hash_tells_names_and_shapes_apart():
    values = torch.arange(4.0)

    def hash_of(name: str, tensor: torch.Tensor) -> str:
        module = torch.nn.Module()
        module.register_buffer(name, tensor)
        return policy.weights_sha256(module)

    hashes = {hash_of("a", values), hash_of("b", values), hash_of("a", values.view(2, 2)), hash_of("a", values.view(torch.int32))}
    assert len(hashes) == 4
    assert hash_of("a", values) == hash_of("a", values.clone())


_WORLD_TOKENIZER = tokenizers.world_tokenizer()


@given(st.sampled_from(world.TASKS), st.text(world.CHARACTERS, max_size=20))
def test_the_worlds_tokens_spell_every_text_of_the_world(task, rest):
    tokenizer = _WORLD_TOKENIZER
    found = tokenizer(f"{task}:{rest}=").input_ids
    assert found[0] == tokenizer.bos_token_id
    if "add:" not in rest:  # the one task's word that the world's letters spell too
        assert len(found) == 1 + 1 + 1 + len(rest) + 1  # one for the task's word and one for each character
    assert tokenizer.unk_token_id not in found
    assert tokenizer.decode(found, skip_special_tokens=True) == f"{task}:{rest}="


def model_folder(path, kind: str, weights: str):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    (path / weights).touch()
    return path


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        ("llama", "pytorch_model.bin", ["pytorch_model.bin", "pickle", "safetensors"]),
        ("llama", "notes.txt", ["no weights", "safetensors"]),
        ("clip", "model.safetensors", ["'clip'", "causal language model"]),
        ("ours-alone", "model.safetensors", ["'ours-alone'", "causal language model"]),
    ],
)
def test_a_folder_that_cannot_be_trusted_or_computed_is_refused(tmp_path, kind, weights, words):
    folder = model_folder(tmp_path / "model", kind, weights)
    with pytest.raises(UserError) as refused:
        policy.load(folder)
    for word in [str(folder), *words]:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_readable_configuration_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        policy.load(tmp_path)
    folder = model_folder(tmp_path / "model", "llama", "model.safetensors")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json, line 1: not JSON"):
        policy.load(folder)


def test_code_in_a_model_folder_is_never_run(tmp_path):
    """A configuration that points to code of its own is refused by its kind, before anything could import it."""
    folder = model_folder(tmp_path / "model", "own", "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(UserError, match="'own' is not supported"):
        policy.load(folder)
    assert not (tmp_path / "ran").exists()


def trusted(path):
    folder = model_folder(path, "llama", "model.safetensors")
    trusted_folder.check_folder(folder)
    return folder


def test_an_adapter_does_not_replace_the_weights(tmp_path):
    folder = trusted(tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path), "peft_type": "LORA"}))
    with pytest.raises(UserError, match=r"adapter_config\.json would replace the weights"):
        policy.load(folder)


@pytest.mark.parametrize("shard", ["w.bin", "../w.safetensors", "/w.safetensors", "gone.safetensors", "a/w.safetensors", 3])
def test_an_index_names_safetensors_of_the_folder_only(tmp_path, shard):
    folder = trusted(tmp_path / "model")
    for other in (folder / "w.bin", tmp_path / "w.safetensors"):
        other.write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": shard}}))
    with pytest.raises(UserError, match="is no safetensors file of the folder"):
        policy.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "other.safetensors", "deeper/chat_template.jinja"])
def test_a_link_out_of_a_model_folder_is_not_followed(tmp_path, name):
    folder = trusted(tmp_path / "model")
    (tmp_path / "secret").write_text("{}")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to("../" * (1 + name.count("/")) + "secret")
    with pytest.raises(UserError, match="a link out of the model folder"):
        policy.load(folder)


def test_the_links_of_the_hubs_cache_are_its_own(tmp_path):
    cache = tmp_path / "models--me--mine"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.parent.mkdir()
    model_folder(snapshot, "llama", "other")
    (blobs / "abc").write_bytes(b"")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    trusted_folder.check_folder(snapshot)
    (snapshot / "tokenizer.json").symlink_to("../../../secret")
    with pytest.raises(UserError, match="a link out of the model folder"):
        trusted_folder.check_folder(snapshot)


@pytest.mark.parametrize(
    "change",
    [{"transformers_weights": "../w.safetensors"}, {"transformers_weights": "w.bin"}, {"_attn_implementation": "me/kernel"}],
)
def test_a_configuration_names_no_other_weights_and_no_code(tmp_path, change):
    folder = trusted(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **change}))
    with pytest.raises(UserError, match=r"config\.json: (transformers_weights|_attn_implementation)"):
        policy.load(folder)


def test_missing_package_is_reported_with_the_remedy(monkeypatch):
    # Whether or not `make smollm2` was run here: of the two packages that are needed, `gguf` is there.
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.0" if name == "gguf" else installed(name))
    with pytest.raises(UnfitEnvironmentError, match=r"no-such-model is not installed; run `make smollm2`"):
        policy.create_initial(settings(source="package", name="no-such-model", revision="1", architecture=None), seed=0)
    with pytest.raises(UnfitEnvironmentError, match=r"has version .*, but the recipe needs 0\.0\.0"):
        policy.create_initial(settings(source="package", name="pytest", revision="0.0.0", architecture=None), seed=0)
