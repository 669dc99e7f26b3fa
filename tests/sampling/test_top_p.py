"""Nucleus sampling: transformers' results on the CPU, and without the operation that CUDA refuses."""

import pytest
import torch
from transformers import TopPLogitsWarper

from spac_repro.sampling import top_p as module
from spac_repro.sampling.top_p import TopP, cumulative_sum

P = [0.05, 0.5, 0.9, 0.999]


def logits(vocabulary: int) -> torch.Tensor:
    """Rows of logits: drawn, flat (all equal), one token certain, with ties, and with tokens that are excluded already."""
    generator = torch.Generator().manual_seed(vocabulary)
    drawn = 3 * torch.randn(6, vocabulary, generator=generator)
    drawn[1] = 0.0
    drawn[2, 3] = 200.0
    drawn[3] = drawn[3].round()
    drawn[4, 1::2] = -torch.inf
    return drawn


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("vocabulary", [37, 32_000])
def test_on_a_cpu_it_is_transformers_own(p: float, vocabulary: int) -> None:
    scores = logits(vocabulary)
    theirs = TopPLogitsWarper(p)(None, scores.clone())
    assert torch.equal(TopP(p)(None, scores), theirs)


@pytest.mark.parametrize("p", P)
def test_as_on_cuda_it_makes_the_same_draws(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of CUDA in place of the CPU's. Equal logits tie; where they straddle p, rounding decides how many of them stay."""
    scores = logits(32_000)
    theirs = TopPLogitsWarper(p)(None, scores.clone())
    used = []
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda values, _: used.append(1) or cumulative_sum(values))
    ours = TopP(p)(None, scores)
    assert used
    distinct = [0, 2, 4, 5]
    assert torch.equal(ours[distinct], theirs[distinct])
    for row in (1, 3):
        assert abs(int(ours[row].isfinite().sum() - theirs[row].isfinite().sum())) <= 0.001 * 32_000
    draws = [
        torch.multinomial(each[distinct].softmax(-1), 1, generator=torch.Generator().manual_seed(5)) for each in (ours, theirs)
    ]
    assert torch.equal(*draws)


def test_the_sum_is_that_of_cumsum_in_float64() -> None:
    for n in (1, 2, 3, 37, 1024, 32_000):
        values = torch.rand(4, n, generator=torch.Generator().manual_seed(n))
        assert torch.allclose(cumulative_sum(values), values.double().cumsum(-1), rtol=1e-13, atol=0)


def test_the_most_likely_token_always_stays() -> None:
    kept = TopP(1e-6)(None, logits(37))
    assert kept.isfinite().sum(-1).tolist() == [1] * 6


def test_nothing_here_calls_what_cuda_refuses() -> None:
    """With deterministic algorithms CUDA raises at a floating-point cumsum, so only the CPU may reach one."""
    source = module.__loader__.get_source(module.__name__)
    assert source.count(".cumsum(") == 1
    assert 'probabilities.cumsum(-1) if scores.device.type == "cpu" else' in source
