"""The losses against closed forms worked out apart from them, finite differences, and the identities that the theory states."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, sigmoid

from spac_repro import objectives

pytestmark = pytest.mark.usefixtures("one_thread")

BASELINES = ("both", "chosen", "rejected", "none")
CRITICS = ("smoothed", "linear")
BETAS = (0.1, 1.0, 5.0)

log_ratios = st.floats(-30, 30)
strengths = st.floats(0.01, 5)
weights = st.floats(0, 20)


def ratios(n: int = 7, seed: int = 0) -> list[Tensor]:
    """ρ of chosen, rejected and self-play responses, float64 and differentiable."""
    draws = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return [draw.clone().requires_grad_() for draw in draws]


def gradients(loss, *inputs: Tensor) -> list[Tensor]:
    """dL/dρ of each input, zero where the loss does not depend on it."""
    found = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
    return [torch.zeros_like(given) if gradient is None else gradient for given, gradient in zip(inputs, found, strict=True)]


def softplus(x: float) -> float:
    """−log σ(−x), without torch."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# Values, written out per example


def spac_by_hand(chosen: float, rejected: float, selfplay: float, beta: float, weight: float, critic: str, baseline: str) -> float:
    preference = weight * softplus(-beta * (chosen - rejected))
    sampled = {
        "both": [chosen, rejected],
        "chosen": [chosen],
        "rejected": [rejected],
        "none": [0.0],
    }[baseline]
    if critic == "linear":
        return preference + beta * selfplay - beta * sum(sampled) / len(sampled)
    return preference + sum(softplus(beta * (selfplay - data)) for data in sampled) / len(sampled)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("critic", CRITICS)
@given(log_ratios, log_ratios, log_ratios, strengths, weights)
def test_spac_is_its_formula(critic, baseline, chosen, rejected, selfplay, beta, weight):
    rho = [torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected, selfplay)]
    loss = objectives.spac(*rho, beta=beta, preference_weight=weight, critic_loss=critic, critic_baseline=baseline)
    assert loss.shape == (1,)
    expected = spac_by_hand(chosen, rejected, selfplay, beta, weight, critic, baseline)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(log_ratios, log_ratios, strengths)
def test_dpo_ipo_and_spin_are_their_formulas(first, second, beta):
    pair = [torch.tensor([value], dtype=torch.float64) for value in (first, second)]
    assert objectives.dpo(*pair, beta=beta).item() == pytest.approx(softplus(-beta * (first - second)), rel=1e-12)
    assert objectives.spin(*pair, beta=beta).item() == pytest.approx(softplus(-beta * (first - second)), rel=1e-12)
    assert objectives.ipo(*pair, beta=beta).item() == pytest.approx((first - second - 0.5 / beta) ** 2, rel=1e-9, abs=1e-12)


def test_losses_stay_finite_where_a_naive_log_of_sigmoid_would_not():
    far = torch.tensor([-2000.0, 2000.0])
    for loss in (
        objectives.dpo(far, -far, beta=1.0),
        objectives.spin(far, -far, beta=1.0),
        objectives.spac(far, -far, far / 2, beta=1.0, preference_weight=1.0),
    ):
        assert torch.isfinite(loss).all()


# Gradients, in closed form


@pytest.mark.parametrize("weight", [0.0, 3.0])
@pytest.mark.parametrize("beta", BETAS)
def test_gradient_of_the_default(beta, weight):
    """dL/dρ⁺ = −λβσ(−a) − ½βσ(−c₊); dL/dρ⁻ = +λβσ(−a) − ½βσ(−c₋); dL/dρ′ = ½β(σ(−c₊) + σ(−c₋))."""
    rho = ratios()
    found = gradients(objectives.spac(*rho, beta=beta, preference_weight=weight), *rho)
    chosen, rejected, selfplay = (value.detach() for value in rho)
    a = beta * (chosen - rejected)
    c_chosen, c_rejected = beta * (chosen - selfplay), beta * (rejected - selfplay)
    expected = [
        -weight * beta * sigmoid(-a) - 0.5 * beta * sigmoid(-c_chosen),
        +weight * beta * sigmoid(-a) - 0.5 * beta * sigmoid(-c_rejected),
        0.5 * beta * (sigmoid(-c_chosen) + sigmoid(-c_rejected)),
    ]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("critic", CRITICS)
def test_gradient_of_every_form_of_spac(critic, baseline):
    """The critic's gradient alone (λ = 0), s being a response's share in the baseline: −sβ and +β; times σ(−c) where smoothed."""
    beta = 0.7
    rho = ratios()
    found = gradients(objectives.spac(*rho, beta=beta, preference_weight=0.0, critic_loss=critic, critic_baseline=baseline), *rho)
    chosen, rejected, selfplay = (value.detach() for value in rho)
    share = {"both": (0.5, 0.5), "chosen": (1, 0), "rejected": (0, 1), "none": (0, 0)}[baseline]
    one = torch.ones_like(selfplay)
    pull = [one if critic == "linear" else sigmoid(beta * (selfplay - data)) for data in (chosen, rejected)]
    alone = one if critic == "linear" else sigmoid(beta * selfplay)
    push = alone if baseline == "none" else share[0] * pull[0] + share[1] * pull[1]
    expected = [-share[0] * beta * pull[0], -share[1] * beta * pull[1], beta * push]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_of_the_other_methods(beta):
    first, second, _ = ratios()
    margin = (first - second).detach()
    logistic_slope = -beta * sigmoid(-beta * margin)
    for loss in (objectives.dpo, objectives.spin):
        torch.testing.assert_close(gradients(loss(first, second, beta=beta), first, second), [logistic_slope, -logistic_slope])
    square_slope = 2 * (margin - 1 / (2 * beta))
    torch.testing.assert_close(gradients(objectives.ipo(first, second, beta=beta), first, second), [square_slope, -square_slope])


# Gradients, by finite differences

EVERY_LOSS = {
    **{
        f"spac {critic} {baseline}": lambda p, m, s, critic=critic, baseline=baseline: objectives.spac(
            p, m, s, beta=0.8, preference_weight=2.5, critic_loss=critic, critic_baseline=baseline
        )
        for critic in CRITICS
        for baseline in BASELINES
    },
    "dpo": lambda p, m, s: objectives.dpo(p, m, beta=0.8),
    "ipo": lambda p, m, s: objectives.ipo(p, m, beta=0.8),
    "spin": lambda p, m, s: objectives.spin(p, s, beta=0.8),
    "spac, both terms weighted, with a penalty": lambda p, m, s: objectives.spac(
        p, m, s, beta=0.8, preference_weight=1.5, critic_weight=0.4, chosen_penalty_weight=2.0
    ),
    "chipo": lambda p, m, s: objectives.chipo(p, m, beta=0.05),
    "chipo, clipped": lambda p, m, s: objectives.chipo(p, m, beta=0.05, reward_bound=0.3),
    "rpo": lambda p, m, s: objectives.rpo(p, m, beta=0.8, sft_weight=0.3),
    "dpop": lambda p, m, s: objectives.dpop(p, m, beta=0.8, chosen_penalty_weight=3.0),
    "sppo": lambda p, m, s: objectives.sppo(p, m, beta=0.8),
    "simpo": lambda p, m, s: objectives.simpo(p, m, beta=2.0, gamma_beta_ratio=0.5),
}


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_gradient_is_the_slope(name):
    loss = EVERY_LOSS[name]
    rho = ratios(seed=1)
    found = gradients(loss(*rho), *rho)
    step = 1e-6
    values = [value.detach() for value in rho]
    for place in range(3):
        up, down = ([v + sign * step * (place == i) for i, v in enumerate(values)] for sign in (1, -1))
        torch.testing.assert_close(found[place], (loss(*up) - loss(*down)) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_each_example_has_its_own_loss(name):
    """The loss of an example does not depend on which others are computed beside it."""
    rho = [value.detach() for value in ratios()]
    together = EVERY_LOSS[name](*rho)
    apart = torch.cat([EVERY_LOSS[name](*(value[i : i + 1] for value in rho)) for i in range(len(together))])
    torch.testing.assert_close(together, apart)


# What the theory says


@given(st.integers(0, 1000), strengths)
def test_spin_is_spac_without_preferences_against_the_chosen(seed, beta):
    chosen, rejected, selfplay = ratios(seed=seed)
    spin = objectives.spin(chosen, selfplay, beta=beta)
    spac = objectives.spac(
        chosen, rejected, selfplay, beta=beta, preference_weight=0.0, critic_loss="smoothed", critic_baseline="chosen"
    )
    assert torch.equal(spin, spac)
    assert torch.equal(*(torch.stack(gradients(loss, chosen, rejected, selfplay)) for loss in (spin, spac)))


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_shift_of_the_prompt_cancels_exactly_where_there_is_a_baseline(critic, baseline):
    """log Z_t(x) is such a shift: what it does to the loss, the policy cannot be asked to answer for."""
    chosen, rejected, selfplay = (value.detach() for value in ratios())
    shift = torch.linspace(-4, 4, len(chosen), dtype=torch.float64)  # another for each prompt

    def loss(by: Tensor) -> Tensor:
        return objectives.spac(
            chosen + by, rejected + by, selfplay + by, beta=0.6, preference_weight=3.0, critic_loss=critic, critic_baseline=baseline
        )

    change = loss(shift) - loss(torch.zeros_like(shift))
    if baseline != "none":
        torch.testing.assert_close(change, torch.zeros_like(change), rtol=0, atol=1e-12)
    elif critic == "linear":
        torch.testing.assert_close(change, 0.6 * shift)
    else:
        by_hand = [softplus(0.6 * (y + s)) - softplus(0.6 * y) for y, s in zip(selfplay.tolist(), shift.tolist(), strict=True)]
        torch.testing.assert_close(change, torch.tensor(by_hand, dtype=torch.float64))
        assert change.abs().max() > 0.5


@pytest.mark.parametrize("baseline", BASELINES)
def test_smoothed_is_half_the_linear_at_the_start(baseline):
    """−log σ(c) = log 2 − c/2 + c²/8 − …: the smoothed critic weighs half as much, so linear at λ is as smoothed at λ/2."""
    rho = [1e-3 * value.detach() for value in ratios()]
    smoothed, linear = (
        objectives.spac(*rho, beta=1.0, preference_weight=0.0, critic_loss=critic, critic_baseline=baseline) for critic in CRITICS
    )
    torch.testing.assert_close(smoothed, math.log(2) + linear / 2, rtol=0, atol=1e-5)
    start = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    halves = gradients(
        objectives.spac(*start, beta=0.9, preference_weight=1.5, critic_loss="smoothed", critic_baseline=baseline), *start
    )
    wholes = gradients(
        objectives.spac(*start, beta=0.9, preference_weight=3.0, critic_loss="linear", critic_baseline=baseline), *start
    )
    torch.testing.assert_close([2 * half for half in halves], wholes)


def test_ipo_is_least_at_its_target_margin_and_dpo_nowhere():
    beta = 0.25
    margins = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    zero = torch.zeros_like(margins)
    best = margins[objectives.ipo(margins, zero, beta=beta).argmin()]
    assert best.item() == pytest.approx(1 / (2 * beta), abs=0.01)
    assert (objectives.dpo(margins, zero, beta=beta).diff() < 0).all()
