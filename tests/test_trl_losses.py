"""The losses against TRL's of the same name, on the same log-probabilities: values and gradients.

Where TRL normalises otherwise, the comparison says by what. TRL has no dpop. test_rival_objectives.py has a second implementation
of every loss.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spac_repro import objectives

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.check,
    pytest.mark.skipif(not (ROOT / ".venv" / "peers" / "trl").is_dir(), reason="TRL is not here: `make bench` brings it"),
]

BETA, GAMMA_BETA_RATIO, TOKENS = 0.3, 0.5, 5
LOSSES = [
    {"name": "dpo", "loss_type": "sigmoid"},
    {"name": "sppo", "loss_type": "sppo_hard"},
    {"name": "ipo", "loss_type": "ipo"},
    {"name": "simpo", "loss_type": "simpo", "simpo_gamma": GAMMA_BETA_RATIO * BETA},
    {"name": "rpo", "loss_type": "sigmoid", "more_types": ["sft"], "more_weights": [0.7 * BETA * TOKENS]},
    {"name": "χ²", "loss_type": "sigmoid", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0},
]


def responses(seed: int, rows: int = 6, *, equal: bool = False) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [TOKENS] * rows if equal else torch.randint(1, 9, (rows,), generator=generator).tolist()
    return [(-2 * torch.rand(length, generator=generator, dtype=torch.float64)).tolist() for length in lengths]


def references(seed: int, of: list[list[float]]) -> list[float]:
    noise = 2 * torch.randn(len(of), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [sum(response) - shift for response, shift in zip(of, noise.tolist(), strict=True)]


def make_batch(*, equal: bool) -> dict[str, Any]:
    chosen, rejected = responses(1, equal=equal), responses(2, equal=equal)
    return {
        "chosen": chosen,
        "rejected": rejected,
        "chosen_ref": references(3, chosen),
        "rejected_ref": references(4, rejected),
    }


UNEQUAL, EQUAL = make_batch(equal=False), make_batch(equal=True)  # in the number of tokens of the responses
ROWS = [{name: values[row : row + 1] for name, values in UNEQUAL.items()} for row in range(len(UNEQUAL["chosen"]))]


@pytest.fixture(scope="module")
def trl() -> dict[str, Any]:
    """TRL's answers. Where it averages over tokens and the package sums, responses have equal lengths."""
    losses = [{"beta": BETA, **loss} for loss in LOSSES]
    batches = [{**batch, "losses": losses} for batch in (UNEQUAL, EQUAL, *ROWS)]
    script = [sys.executable, str(ROOT / "bench" / "trl_losses.py")]
    done = subprocess.run(script, input=json.dumps(batches), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    unequal, equal, *rows = json.loads(done.stdout)
    return {**unequal, "equal": equal, "rows": rows}


def sums(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """log π of each response, [rows], to differentiate by."""
    made = [torch.tensor([*map(sum, batch[name])], dtype=torch.float64) for name in ("chosen", "rejected")]
    return made[0].requires_grad_(), made[1].requires_grad_()


def log_ratios(batch: dict[str, Any], logprobs: tuple[Tensor, Tensor]) -> list[Tensor]:
    names = ("chosen_ref", "rejected_ref")
    return [value - torch.tensor(batch[name], dtype=torch.float64) for name, value in zip(names, logprobs, strict=True)]


def same(theirs: dict[str, Any], loss: Tensor, logprobs: tuple[Tensor, Tensor], *, constant: float = 0.0) -> None:
    assert loss.mean().item() + constant == pytest.approx(theirs["loss"], rel=1e-9)
    gradients = torch.autograd.grad(loss.mean(), logprobs)
    for name, gradient in zip(("chosen", "rejected"), gradients, strict=True):
        assert gradient.tolist() == pytest.approx(theirs[name], rel=1e-9, abs=1e-12)


def test_dpo(trl):
    logprobs = sums(UNEQUAL)
    same(trl["dpo"], objectives.dpo(*log_ratios(UNEQUAL, logprobs), beta=BETA), logprobs)


def test_sppo(trl):
    logprobs = sums(UNEQUAL)
    same(trl["sppo"], objectives.sppo(*log_ratios(UNEQUAL, logprobs), beta=BETA), logprobs)


def test_simpo_of_means_over_tokens(trl):
    logprobs = sums(UNEQUAL)
    lengths = [torch.tensor([*map(len, UNEQUAL[name])]) for name in ("chosen", "rejected")]
    means = [value / length for value, length in zip(logprobs, lengths, strict=True)]
    same(trl["simpo"], objectives.simpo(*means, beta=BETA, gamma_beta_ratio=GAMMA_BETA_RATIO), logprobs)


def test_ipo_where_trl_averages_over_tokens(trl):
    """TRL divides ρ by the number of tokens, its completion mask; with equal lengths that is ρ/5, here made equal by hand."""
    logprobs = sums(EQUAL)
    shared = [value / TOKENS for value in log_ratios(EQUAL, logprobs)]
    same(trl["equal"]["ipo"], objectives.ipo(*shared, beta=BETA), logprobs)


def test_rpo_where_trl_averages_over_tokens(trl):
    """TRL's `sft` is a mean over all tokens of the batch: with 5 in every response, 5 times the weight makes it a mean of sums.

    TRL takes log π(y⁺) and the package ρ(y⁺): a constant apart, the reference's log-probabilities.
    """
    logprobs = sums(EQUAL)
    reference = sum(EQUAL["chosen_ref"]) / len(EQUAL["chosen_ref"])
    loss = objectives.rpo(*log_ratios(EQUAL, logprobs), beta=BETA, sft_weight=0.7)
    same(trl["equal"]["rpo"], loss, logprobs, constant=-0.7 * BETA * reference)


def test_chipo_from_the_margins_of_two_of_trls_divergences(trl):
    """TRL's α-divergence with α = 2 has the score z − 1, reverse KL has log z. χPO's φ = z + log z has the sum of their margins."""
    for batch, theirs in zip(ROWS, trl["rows"], strict=True):
        margins = [-math.log(math.expm1(theirs[name]["loss"])) for name in ("dpo", "χ²")]  # loss = log(1 + e^−margin)
        loss = objectives.chipo(*log_ratios(batch, sums(batch)), beta=BETA)
        assert loss.item() == pytest.approx(math.log1p(math.exp(-sum(margins))), rel=1e-5)  # TRL's χ² is in float32


def test_a_wrong_loss_would_be_seen(trl):
    """A tenth more β, a forgotten half, sums for means: each is found."""
    logprobs = sums(UNEQUAL)
    rho = log_ratios(UNEQUAL, logprobs)
    wrong = [
        ("sppo", objectives.sppo(*rho, beta=1.1 * BETA)),
        ("sppo", objectives.sppo(*rho, beta=BETA) / 2),
        ("simpo", objectives.simpo(*logprobs, beta=BETA, gamma_beta_ratio=GAMMA_BETA_RATIO)),
    ]
    for name, loss in wrong:
        with pytest.raises(AssertionError):
            same(trl[name], loss, logprobs)
