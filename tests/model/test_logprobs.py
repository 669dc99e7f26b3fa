"""Log-probabilities of chosen tokens, and their gradients, against torch's own form on all logits."""

import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from spac_repro import iteration
from spac_repro.data.example import TokenizedExample
from spac_repro.model import logprobs
from spac_repro.model.logprobs import token_logprobs
from spac_repro.model.packing import pack

pytestmark = pytest.mark.usefixtures("one_thread")


def random_inputs(tokens: int, width: int, vocabulary: int, *, bias: bool = False, seed: int = 0, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(tokens, width, generator=generator)).requires_grad_()
    output = nn.Linear(width, vocabulary, bias=bias)
    with torch.no_grad():
        for parameter in output.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return hidden, output, torch.randint(vocabulary, (tokens,), generator=generator)


def with_gradients(function, hidden, output, targets):
    """The values, and the gradients of a sum in which every token weighs differently."""
    values = function(hidden, output, targets)
    weights = torch.linspace(-1, 2, len(targets))
    return values.detach(), *torch.autograd.grad((weights * values).sum(), [hidden, *output.parameters()])


def torch_logprobs(hidden, output, targets):
    return -cross_entropy(output(hidden), targets, reduction="none")


def in_double(function, hidden, output, targets):
    twin = nn.Linear(output.in_features, output.out_features, bias=output.bias is not None).double()
    twin.load_state_dict(output.state_dict())
    return with_gradients(function, hidden.detach().double().requires_grad_(), twin, targets)


def assert_close_to_torch(found, expected):
    """To fp32 rounding of a sum of this size."""
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=2e-6, atol=2e-6 * float(wanted.abs().max().clamp(min=1)))


@settings(deadline=None)
@given(
    tokens=st.integers(1, 40), width=st.integers(1, 9), vocabulary=st.integers(2, 60),
    max_logits=st.integers(1, 3000), bias=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_values_and_gradients_equal_torchs(tokens, width, vocabulary, max_logits, bias, seed):
    """However many chunks: from one token at a time to all at once."""
    inputs = random_inputs(tokens, width, vocabulary, bias=bias, seed=seed)
    found = with_gradients(lambda *inputs: token_logprobs(*inputs, max_logits=max_logits), *inputs)
    assert_close_to_torch(found, in_double(torch_logprobs, *inputs))


def test_the_least_likely_token_is_not_lost():
    """Logits hundreds apart: the probability is 0 in fp32, its logarithm is not. Whole numbers, so that the logits are exact."""
    inputs = random_inputs(8, 4, 50, scale=100.0)
    with torch.no_grad():
        for tensor in (inputs[0], inputs[1].weight):
            tensor.round_()
    values, *gradients = with_gradients(token_logprobs, *inputs)
    assert values.min() < -120
    assert_close_to_torch((values, *gradients), in_double(torch_logprobs, *inputs))


def test_without_gradients_the_values_are_the_same_bits():
    hidden, output, targets = random_inputs(30, 8, 50)
    expected = token_logprobs(hidden, output, targets, max_logits=10 * 50)
    with torch.no_grad():
        assert torch.equal(token_logprobs(hidden, output, targets, max_logits=10 * 50), expected)


def test_of_bf16_logits_the_logarithm_is_taken_in_fp32():
    hidden, output, targets = random_inputs(30, 8, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logprobs(hidden, output, targets)
        expected = -cross_entropy(output(hidden).float(), targets, reduction="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    found.sum().backward()
    assert hidden.grad.isfinite().all()


def test_zero_tokens():
    hidden, output, _ = random_inputs(3, 8, 50)
    assert token_logprobs(hidden[:0], output, torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_never_more_logits_than_allowed():
    """What bounds the memory: the shapes that the output layer is called with, again for the gradient included."""
    hidden, output, targets = random_inputs(100, 8, 50)
    seen = []
    output.register_forward_hook(lambda module, given, made: seen.append(made.numel()))
    token_logprobs(hidden, output, targets, max_logits=700).sum().backward()
    assert max(seen) <= 700
    assert sum(seen) == 2 * 100 * 50


def test_a_sharded_output_layer_is_called_once_for_any_number_of_tokens():
    """Under ZeRO-3 every call gathers the weight from all processes, so all of them must make equally many."""
    hidden, output, targets = random_inputs(100, 8, 50)
    expected = token_logprobs(hidden, output, targets, max_logits=700)
    output.weight.ds_id = 0  # as DeepSpeed marks it
    calls = []
    output.register_forward_hook(lambda module, given, made: calls.append(made.shape))
    found = token_logprobs(hidden, output, targets, max_logits=700)
    found.sum().backward()
    assert calls == [(100, 50)]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("max_logits", [10 * 50, 2**20])
def test_capped_logits_equal_torchs(max_logits):
    """In chunks and at once; scaled so that the bound of 2 matters."""
    inputs = random_inputs(30, 8, 50, bias=True, scale=3.0)

    def capped(hidden, output, targets):
        return -cross_entropy(2.0 * torch.tanh(output(hidden) / 2.0), targets, reduction="none")

    found = with_gradients(lambda *inputs: token_logprobs(*inputs, softcap=2.0, max_logits=max_logits), *inputs)
    assert_close_to_torch(found, in_double(capped, *inputs))
    assert (found[0] - torch_logprobs(*inputs)).abs().max() > 1


# Liger, which needs a GPU: who asks for it, and with what


@pytest.fixture
def asked(monkeypatch):
    """What is asked of a kernel that stands in for Liger's."""
    calls = []

    def kernel_for(softcap):
        def kernel(weight, hidden, targets, bias):
            calls.append(softcap)
            return torch.full((len(targets),), 7.0)

        return kernel

    monkeypatch.setattr(logprobs, "_liger_cross_entropy", kernel_for)
    return calls


def test_the_kernel_computes_only_where_it_is_asked_for(asked):
    inputs = random_inputs(5, 8, 50)
    token_logprobs(*inputs)
    assert asked == []
    assert (token_logprobs(*inputs, fused=True, softcap=30.0) == -7).all()
    assert asked == [30.0]


@pytest.mark.parametrize(
    ("device", "engine", "serves"),
    [
        ("cuda", "accelerate", True),
        ("cuda", "deepspeed-zero2", True),
        ("cuda", "deepspeed-zero3", False),  # neither the training nor its reference
        ("cpu", "accelerate", False),
    ],
)
def test_a_policy_and_its_reference_take_the_same_kernel(asked, tiny_models, device, engine, serves):
    training = SimpleNamespace(engine=engine)
    context = SimpleNamespace(device=torch.device(device), recipe=SimpleNamespace(training=training))
    policy = iteration.policy_for(context, tiny_models["llama"])
    packed = pack([TokenizedExample([3, 4], [[5, 6], [7]])])
    policy(packed)  # in training
    with torch.no_grad():
        policy(packed)  # as its own reference
    assert len(asked) == (2 if serves else 0)


@pytest.mark.parametrize(("version", "serves"), [("0.8.5", True), ("0.6.2", False), ("0.9.0", False)])
def test_no_other_version_of_it_is_taken(monkeypatch, version, serves):
    """An older one has wrong gradients, and says nothing."""
    stand_in = SimpleNamespace(LigerFusedLinearCrossEntropyLoss=lambda **options: options)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace(transformers=stand_in))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    monkeypatch.setattr(logprobs.metadata, "version", {"liger-kernel": version}.get)
    found = logprobs._liger_cross_entropy.__wrapped__(30.0)
    assert (found is not None) == serves
    assert not serves or found == {"reduction": "none", "accum_dtype": torch.float32, "softcap": 30.0}


def test_the_version_is_that_of_the_extra():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["liger"] == [f"liger-kernel=={logprobs.LIGER_VERSION}"]
