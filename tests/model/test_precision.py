"""Emulated bfloat16 products against torch's own."""

import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from spac_repro.data.example import TokenizedExample
from spac_repro.model import precision
from spac_repro.model.logprobs import token_logprobs
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy

pytestmark = pytest.mark.usefixtures("one_thread")

ULP = 2.0**-7  # the distance of neighbouring bfloat16 numbers, in relation to them, at most


@pytest.fixture
def without_native_bf16(monkeypatch):
    monkeypatch.setattr(precision, "has_native_bf16", lambda: False)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(function, *operands: torch.Tensor) -> list[torch.Tensor]:
    operands = [operand.clone().requires_grad_() for operand in operands]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = function(*operands)
    (torch.cos(torch.arange(result.numel()).view(result.shape)) * result.float()).sum().backward()
    return [result, *(operand.grad for operand in operands)]


@pytest.mark.parametrize(
    ("function", "operands"),
    [
        (linear, [draw(9, 40, seed=1), draw(17, 40, seed=2)]),
        (
            lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
            [draw(2, 3, 8, 16, seed=seed) for seed in (3, 4, 5)],
        ),
    ],
)
def test_products_and_gradients_equal_autocasts(without_native_bf16, function, operands):
    expected = with_gradients(function, *operands)
    with precision.emulate_bf16_matmul():
        found = with_gradients(function, *operands)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        scale = float(theirs.detach().float().abs().max())
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2 * ULP, atol=ULP * scale)
    assert not torch.equal(found[0].float(), function(*operands))  # rounded, as autocast's is


def test_a_product_is_that_of_rounded_numbers_in_fp32_and_rounded(without_native_bf16):
    x, weight = draw(9, 700, seed=1), draw(17, 700, seed=2)
    exact = linear(*(tensor.bfloat16().float() for tensor in (x, weight)))
    with precision.emulate_bf16_matmul(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear(x, weight), exact.bfloat16())
    with precision.emulate_bf16_matmul():
        assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), exact.bfloat16())
        assert torch.equal(linear(x, weight), linear(x, weight))  # and fp32 is fp32


def test_the_emulation_replaces_torchs_bf16(monkeypatch, without_native_bf16):
    seen = []
    monkeypatch.setattr(precision, "_round_to_bf16", lambda value: seen.append(value) or value)
    with precision.emulate_bf16_matmul(), torch.autocast("cpu", dtype=torch.bfloat16):
        linear(torch.ones(1, 2), torch.ones(1, 2))
    assert len(seen) == 2


def test_sums_of_numbers_that_bfloat16_holds_are_exact(without_native_bf16):
    """256 + 1 is no bfloat16 number: a sum kept in bfloat16 would lose every one of these ones."""
    with precision.emulate_bf16_matmul(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.ones(1, 512), torch.ones(1, 512)).item() == 512


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_log_probabilities_of_a_policy(tiny_models, without_native_bf16, weights):
    """Of weights in bfloat16, or of others under autocast."""
    policy = Policy(copy.deepcopy(tiny_models["mistral"]).to(weights))
    packed = pack([TokenizedExample([1, 2, 3], [[4, 5, 6, 7], [8]]), TokenizedExample([9], [[10, 11]])])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=weights == torch.float32):
        expected = policy(packed)
        with precision.emulate_bf16_matmul():
            found = policy(packed)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-2)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_recomputation_for_the_gradient_gives_the_same_values(tiny_models, without_native_bf16, weights):
    """Layers by the model's own checkpoints, logits by ours; torch itself refuses a repetition with other types."""
    packed = pack([TokenizedExample([1, 2, 3], [[4, 5, 6, 7], [8]]), TokenizedExample([9], [[10, 11]])])
    found = []
    for checkpointed in (False, True):
        model = copy.deepcopy(tiny_models["mistral"]).to(weights).train()
        if checkpointed:
            how = {"use_reentrant": False, "context_fn": precision.checkpoint_contexts}
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
        policy = Policy(model)
        max_logits = 2 * model.config.vocab_size if checkpointed else 2**20
        with precision.emulate_bf16_matmul(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("spac_repro.model.policy.token_logprobs", partial(token_logprobs, max_logits=max_logits))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=weights == torch.float32):
                values = policy(packed)
            values.sum().backward()
        layers = {name: parameter.grad for name, parameter in model.named_parameters() if "lm_head" not in name}
        found.append((values.detach(), layers))
    assert torch.equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[1][1][name], gradient, rtol=2 * ULP, atol=ULP * scale)


def test_fp32_is_left_alone(tiny_models, without_native_bf16):
    packed = pack([TokenizedExample([1, 2, 3], [[4, 5, 6, 7], [8]])])
    policy = Policy(tiny_models["llama"])
    with torch.no_grad():
        expected = policy(packed)
        with precision.emulate_bf16_matmul():
            assert torch.equal(policy(packed), expected)


def test_native_bf16_is_used_if_available(monkeypatch):
    monkeypatch.setattr(precision, "has_native_bf16", lambda: True)
    seen = []
    monkeypatch.setattr(precision, "_round_to_bf16", lambda value: seen.append(value) or value)
    with precision.emulate_bf16_matmul(), torch.autocast("cpu", dtype=torch.bfloat16):
        linear(torch.ones(1, 2), torch.ones(1, 2))
    assert not seen
