"""Every architecture that packs: values, gradients and decoding against the stock model, one response at a time."""

import copy

import pytest
import torch
from small_models import PARTICULARS, SHAPE, stock_model
from torch.nn.attention import flex_attention
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from spac_repro.data import tokenizers
from spac_repro.data.example import TokenizedExample
from spac_repro.model import architectures, packed_attention, policy
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.policy_settings import PolicySettings
from spac_repro.sampling import selfplay

pytestmark = pytest.mark.usefixtures("one_thread")

# A prompt and a response longer than the window of 4 tokens, a prompt within it, an empty response, and a mask.
BATCH = [
    TokenizedExample(list(range(3, 16)), [list(range(20, 33)), [7, 8], []]),
    TokenizedExample([5], [[9, 10, 11, 12, 13, 14, 15], [30]]),
    TokenizedExample([4, 6, 8], [[21, 22, 23], [24, 25, 26]], [[True, False, True], [True, True, True]]),
]


def test_all_are_tested():
    assert set(PARTICULARS) == set(architectures.PACKING_ARCHITECTURES)


@pytest.fixture(scope="module", params=PARTICULARS)
def models(request):
    """(stock model with its own eager attention, the same weights with packed attention)."""
    stock = stock_model(request.param)
    packed = policy.prepare(copy.deepcopy(stock), "sdpa")
    assert policy.supports_packing(packed)
    return stock, packed


def alone(model, batch):
    """log π of each response, in a batch of one with its prompt, from all logits."""
    values = []
    for example in batch:
        for number, response in enumerate(example.responses):
            row = torch.tensor([[*example.prompt, *response]])
            logprobs = model(input_ids=row, use_cache=False).logits[0, :-1].log_softmax(-1)
            of_tokens = logprobs.gather(1, row[0, 1:, None])[len(example.prompt) - 1 :, 0]
            mask = example.loss_mask[number] if example.loss_mask else [True] * len(response)
            values.append(of_tokens[torch.tensor(mask, dtype=torch.bool)].sum())
    return torch.stack(values)


def gradients(model, values):
    model.zero_grad()
    (torch.linspace(-1, 2, len(values)) * values).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.detach().abs().max())))


def test_values_and_gradients_equal_those_of_responses_alone(models):
    stock, packed = models
    found, expected = Policy(packed)(pack(BATCH)), alone(stock, BATCH)
    assert_same(found, expected)
    slopes = gradients(stock, expected)
    for name, slope in gradients(packed, found).items():
        assert_same(slope, slopes[name])


@torch.no_grad()
def test_flex_attention_gives_the_same_values_and_needs_no_gather_tables(models, monkeypatch):
    """The form that a GPU takes, by torch's own reference implementation."""
    stock, packed = models
    monkeypatch.setattr(packed_attention, "split_attention", packed_attention.flex_packed_attention)
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # or every shape is traced, for minutes
    sequence = pack(BATCH)
    assert_same(Policy(packed)(sequence), alone(stock, BATCH))
    assert "tables" not in vars(sequence.layout)


@torch.no_grad()
def test_logits_for_the_leaderboard_are_the_stock_models(models):
    stock, packed = models
    example = TokenizedExample(BATCH[0].prompt, BATCH[0].responses[:1])
    row = torch.tensor([[*example.prompt, *example.responses[0]]])
    expected = stock(input_ids=row, use_cache=False).logits[0, len(example.prompt) - 1 : -1]
    assert_same(Policy(packed).logits(pack([example])), expected)


@torch.no_grad()
def test_padded_decoding_beyond_the_window_is_the_stock_models(models):
    """Rows of unlike lengths with a key-value cache, as self-play decodes them, against each row alone without a cache."""
    stock, packed = models
    rows = [list(range(3, 16)), [5, 6], [7, 8, 9, 10, 11]]
    batch = selfplay._DecodingBatch.of_prompts(rows, [0, 1, 2], 0, packed.device)
    for token in (12, 13, 14, 15, 16, 17):
        expected = torch.cat([stock(input_ids=torch.tensor([row]), use_cache=False).logits[:, -1] for row in rows])
        assert_same(batch.next_token_logits(packed), expected)
        batch.append(torch.full((len(rows), 1), token))
        rows = [[*row, token] for row in rows]


@torch.no_grad()
def test_the_windows_and_bounds_matter(models):
    """Or else the tests above would not see that one is left out."""
    stock, _ = models
    expected = alone(stock, BATCH)
    for name in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
        if PARTICULARS[stock.config.model_type].get(name) is None:
            continue
        config = copy.deepcopy(stock.config)
        setattr(config, name, 100 if name == "sliding_window" else None)
        other = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        other.load_state_dict(stock.state_dict())
        assert (alone(other, BATCH) - expected).abs().max() > 0.1, name


def test_a_model_without_sdpa_is_loaded_from_a_folder_and_packed(tmp_path):
    """transformers refuses to load Gemma 2 with sdpa."""
    config = CONFIG_MAPPING["gemma2"](**{**SHAPE, "vocab_size": 200}, **PARTICULARS["gemma2"])
    model, tokenizer = AutoModelForCausalLM.from_config(config), tokenizers.world_tokenizer()
    policy.save(model, tokenizer, tmp_path)
    shared = {"source": "hub", "name": "m", "revision": "r", "num_parameters": None, "architecture": None, "dtype": "float32"}
    loaded, _ = policy.load(tmp_path, PolicySettings(**shared, attn_implementation="sdpa"))
    eager, _ = policy.load(tmp_path, PolicySettings(**shared, attn_implementation="eager"))
    assert policy.supports_packing(loaded)
    assert not policy.supports_packing(eager)
    with torch.no_grad():
        assert_same(Policy(loaded)(pack(BATCH)), Policy(eager)(pack(BATCH)))
