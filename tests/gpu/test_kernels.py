"""On a GPU: what is computed there against the same on the CPU, and against itself once more."""

import copy
from typing import Any

import pytest
import torch
from small_models import PARTICULARS, stock_model

from spac_repro.data.example import TokenizedExample
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy, prepare
from spac_repro.sampling.top_p import TopP

pytestmark = [
    pytest.mark.usefixtures("deterministic"),
    # Dynamo looks at it while it traces, and catches what it raises.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"),
    # Inductor, which compiles FlexAttention, imports modules of torch that torch itself has deprecated.
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
]

VOCABULARY = 37  # of the tiny models
# Prompt and responses: shorter and longer than Mistral's window of 4, and longer than a block of FlexAttention (128).
LENGTHS = [(3, (6, 2)), (11, (2, 9, 4)), (1, (1,)), (150, (30, 200))]


def draw(length: int, seed: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


BATCH = [TokenizedExample(draw(p, p), [draw(r, 100 * p + r) for r in responses]) for p, responses in LENGTHS]


def values_and_gradients(model: Any, device: str) -> dict[str, torch.Tensor]:
    """Log-probabilities of every response, and the gradient of a weighted sum of them, on the CPU."""
    model = copy.deepcopy(model).to(device)
    logprobs = Policy(model)(pack(BATCH, device=device))
    (logprobs * torch.linspace(-1, 1, len(logprobs), device=device)).sum().backward()
    gradients = {name: weight.grad.cpu() for name, weight in model.named_parameters()}
    return {"logprobs": logprobs.detach().cpu(), **gradients}


@pytest.mark.parametrize("name", PARTICULARS)
def test_flex_attention_computes_what_the_cpu_computes(name: str) -> None:
    model = prepare(stock_model(name), "sdpa")
    ours, theirs = (values_and_gradients(model, device) for device in ("cuda", "cpu"))
    for what, value in theirs.items():
        scale = float(value.abs().max()) or 1.0
        torch.testing.assert_close(
            ours[what] / scale, value / scale, rtol=0, atol=1e-4, msg=lambda text, what=what: f"{what}: {text}"
        )


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_twice_it_has_the_same_bits(tiny_models: dict[str, Any], name: str) -> None:
    first, second = (values_and_gradients(tiny_models[name], "cuda") for _ in range(2))
    for what, value in first.items():
        assert torch.equal(value, second[what]), what


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_tokens_that_the_cpu_keeps(p: float) -> None:
    scores = 3 * torch.randn(8, 32_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(TopP(p)(None, scores.cuda()).cpu(), TopP(p)(None, scores))
