"""The losses of chipo, rpo, dpop, sppo and simpo, and SPAC's two weights: against a second implementation and closed forms.

The second implementation is plain Python on probabilities. It takes each formula from the source that docs/method.md names, and
shares nothing with spac_repro.objectives: no log-ratios, no torch.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, sigmoid

from spac_repro import objectives, recipes
from spac_repro.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

probabilities = st.floats(1e-6, 1.0)
strengths = st.floats(0.01, 5)
weights = st.floats(0, 20)
bounds = st.none() | st.floats(0.01, 20)
log_probabilities = st.floats(-30, 0)


def cross_entropy(margin: float) -> float:
    """The negative log-likelihood of a preference whose rewards differ by a margin: log(1 + e^−margin)."""
    return math.log(1 + math.exp(-margin)) if margin > -700 else -margin


# The second implementation: p, q and their references are probabilities of y⁺ and y⁻


def chipo_by_hand(p: float, p_ref: float, q: float, q_ref: float, beta: float, bound: float | None) -> float:
    """Huang et al. 2024, Algorithm 1."""
    reward = [beta * (z + math.log(z)) for z in (p / p_ref, q / q_ref)]
    margin = reward[0] - reward[1]
    return cross_entropy(margin if bound is None else max(-2 * bound, min(2 * bound, margin)))


def rpo_by_hand(p: float, p_ref: float, q: float, q_ref: float, beta: float, eta: float) -> float:
    """Liu et al. 2024, Algorithm 2, as its authors' trainer has it: the supervised term is −ηβ·log π(y⁺)."""
    return cross_entropy(beta * math.log(p * q_ref / (p_ref * q))) - eta * beta * math.log(p)


def dpop_by_hand(p: float, p_ref: float, q: float, q_ref: float, beta: float, penalty: float) -> float:
    """Pal et al. 2024, eq. 3."""
    return cross_entropy(beta * (math.log(p / p_ref) - math.log(q / q_ref) - penalty * max(0.0, math.log(p_ref / p))))


def sppo_by_hand(p: float, p_ref: float, q: float, q_ref: float, beta: float) -> float:
    """Wu et al. 2024, eq. 4.7: a winner has P = 1, a loser P = 0, and η = 1/β."""
    return sum((math.log(y / ref) - (wins - 1 / 2) / beta) ** 2 for y, ref, wins in ((p, p_ref, 1), (q, q_ref, 0)))


def simpo_by_hand(tokens: list[float], others: list[float], beta: float, gamma: float) -> float:
    """Meng et al. 2024, eq. 6, from the log-probabilities of the tokens."""
    return cross_entropy(beta / len(tokens) * sum(tokens) - beta / len(others) * sum(others) - gamma)


def log_ratios(*pairs: tuple[float, float]) -> list[Tensor]:
    return [torch.tensor([math.log(p) - math.log(ref)], dtype=torch.float64) for p, ref in pairs]


@given(probabilities, probabilities, probabilities, probabilities, strengths, bounds)
def test_chipo_is_its_formula(p, p_ref, q, q_ref, beta, bound):
    found = objectives.chipo(*log_ratios((p, p_ref), (q, q_ref)), beta=beta, reward_bound=bound)
    assert found.item() == pytest.approx(chipo_by_hand(p, p_ref, q, q_ref, beta, bound), rel=1e-9, abs=1e-9)


@given(probabilities, probabilities, probabilities, probabilities, strengths, weights)
def test_rpo_is_its_formula_up_to_a_constant_of_the_reference(p, p_ref, q, q_ref, beta, eta):
    found = objectives.rpo(*log_ratios((p, p_ref), (q, q_ref)), beta=beta, sft_weight=eta)
    constant = eta * beta * math.log(p_ref)
    assert found.item() == pytest.approx(rpo_by_hand(p, p_ref, q, q_ref, beta, eta) + constant, rel=1e-9, abs=1e-8)


@given(probabilities, probabilities, probabilities, probabilities, strengths, weights)
def test_dpop_is_its_formula(p, p_ref, q, q_ref, beta, penalty):
    found = objectives.dpop(*log_ratios((p, p_ref), (q, q_ref)), beta=beta, chosen_penalty_weight=penalty)
    assert found.item() == pytest.approx(dpop_by_hand(p, p_ref, q, q_ref, beta, penalty), rel=1e-9, abs=1e-9)


@given(probabilities, probabilities, probabilities, probabilities, strengths)
def test_sppo_is_its_formula(p, p_ref, q, q_ref, beta):
    found = objectives.sppo(*log_ratios((p, p_ref), (q, q_ref)), beta=beta)
    assert found.item() == pytest.approx(sppo_by_hand(p, p_ref, q, q_ref, beta), rel=1e-9, abs=1e-9)


@given(st.lists(log_probabilities, min_size=1, max_size=9), st.lists(log_probabilities, min_size=1, max_size=9), strengths, weights)
def test_simpo_is_its_formula(tokens, others, beta, gamma):
    means = [torch.tensor([sum(response) / len(response)], dtype=torch.float64) for response in (tokens, others)]
    found = objectives.simpo(*means, beta=beta, gamma_beta_ratio=gamma / beta)
    assert found.item() == pytest.approx(simpo_by_hand(tokens, others, beta, gamma), rel=1e-9, abs=1e-9)


# Gradients, in closed form


def draws(seed: int = 0, scale: float = 2.0) -> list[Tensor]:
    drawn = torch.randn(3, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return [values.clone().requires_grad_() for values in drawn]


def slopes(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), inputs))


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_gradient_of_chipo():
    """dL/dρ = ∓β(1 + e^ρ)·σ(−margin) where the margin is not clipped, and 0 where it is."""
    chosen, rejected, _ = draws()
    found = slopes(objectives.chipo(chosen, rejected, beta=0.3, reward_bound=0.8), chosen, rejected)
    p, q = chosen.detach(), rejected.detach()
    margin = 0.3 * (p + p.exp() - q - q.exp())
    inside = margin.abs() < 1.6
    assert 0 < inside.sum() < len(inside)
    pull = 0.3 * sigmoid(-margin) * inside
    same(found, [-pull * (1 + p.exp()), pull * (1 + q.exp())])


def test_gradient_of_rpo():
    chosen, rejected, _ = draws()
    found = slopes(objectives.rpo(chosen, rejected, beta=0.3, sft_weight=0.7), chosen, rejected)
    pull = 0.3 * sigmoid(-0.3 * (chosen - rejected).detach())
    same(found, [-pull - 0.7 * 0.3, pull])


def test_gradient_of_dpop():
    """The slope in ρ(y⁺) is 1 + λ times as steep where y⁺ is less probable than under the reference."""
    chosen, rejected, _ = draws()
    found = slopes(objectives.dpop(chosen, rejected, beta=0.3, chosen_penalty_weight=4.0), chosen, rejected)
    p, q = chosen.detach(), rejected.detach()
    lost = (p < 0).double()
    assert 0 < lost.sum() < len(lost)
    pull = 0.3 * sigmoid(-0.3 * (p - q + 4 * lost * p))
    same(found, [-pull * (1 + 4 * lost), pull])


def test_gradient_of_sppo():
    chosen, rejected, _ = draws()
    found = slopes(objectives.sppo(chosen, rejected, beta=0.3), chosen, rejected)
    same(found, [2 * (chosen.detach() - 1 / 0.6), 2 * (rejected.detach() + 1 / 0.6)])


def test_gradient_of_simpo():
    chosen, rejected, _ = draws()
    found = slopes(objectives.simpo(chosen, rejected, beta=2.0, gamma_beta_ratio=0.5), chosen, rejected)
    pull = 2 * sigmoid(1 - 2 * (chosen - rejected).detach())
    same(found, [-pull, pull])


# What is said of them


def test_chipo_is_dpo_with_twice_beta_to_first_order():
    chosen, rejected, _ = draws(scale=1e-5)
    same = slopes(objectives.chipo(chosen, rejected, beta=0.2), chosen, rejected)
    torch.testing.assert_close(same, slopes(objectives.dpo(chosen, rejected, beta=0.4), chosen, rejected), rtol=1e-4, atol=0)


def test_chipo_has_finite_gradients_for_any_log_ratio():
    chosen, rejected = (torch.tensor(values, requires_grad=True) for values in ([-500.0, 100.0, 300.0], [200.0, -90.0, 300.0]))
    for bound in (None, 5.0):
        loss = objectives.chipo(chosen, rejected, beta=1.0, reward_bound=bound)
        assert torch.isfinite(loss).all()
        assert all(torch.isfinite(slope.square().sum()) for slope in slopes(loss, chosen, rejected))


@given(st.integers(0, 50), strengths)
def test_rpo_and_dpop_without_their_own_terms_are_dpo(seed, beta):
    chosen, rejected, _ = (values.detach() for values in draws(seed))
    dpo = objectives.dpo(chosen, rejected, beta=beta)
    torch.testing.assert_close(objectives.rpo(chosen, rejected, beta=beta, sft_weight=0.0), dpo)
    torch.testing.assert_close(objectives.dpop(chosen, rejected, beta=beta, chosen_penalty_weight=0.0), dpo)


def test_sppo_fixes_each_log_ratio_where_ipo_fixes_their_difference():
    beta = 0.25
    grid = torch.linspace(-10, 10, 401, dtype=torch.float64)
    chosen, rejected = torch.cartesian_prod(grid, grid).unbind(1)
    least = objectives.sppo(chosen, rejected, beta=beta).argmin()
    assert (chosen[least].item(), rejected[least].item()) == pytest.approx((2.0, -2.0))
    assert (objectives.ipo(chosen, rejected, beta=beta / 2) < 1e-12).sum() > 100


# SPAC's two weights


def spac(rho: list[Tensor], preference: float, critic: float, **more: float) -> Tensor:
    return objectives.spac(*rho, beta=0.6, preference_weight=preference, critic_weight=critic, **more)


def test_the_neutral_weights_are_the_loss_without_them_bit_by_bit():
    rho = [values.float().detach().requires_grad_() for values in draws(4)]
    a = 0.6 * (rho[0] - rho[1])
    terms = [-torch.nn.functional.logsigmoid(0.6 * (data - rho[2])) for data in rho[:2]]
    before = 3.0 * -torch.nn.functional.logsigmoid(a) + (terms[0] + terms[1]) / 2  # as version 0.2 computed it
    now = objectives.spac(*rho, beta=0.6, preference_weight=3.0)
    assert torch.equal(before, now)
    assert all(map(torch.equal, slopes(before, *rho), slopes(now, *rho)))


@given(st.integers(0, 50), st.floats(0.01, 50), st.floats(0.01, 50))
def test_a_weight_on_either_term_is_the_same_loss_in_other_units(seed, preference, critic):
    """λ on the preference term, and 1/λ on the critic term: the same loss times a constant."""
    rho = [values.detach() for values in draws(seed)]
    torch.testing.assert_close(spac(rho, preference, critic), critic * spac(rho, preference / critic, 1.0))
    torch.testing.assert_close(spac(rho, preference, critic), preference * spac(rho, 1.0, critic / preference))


def trained(factor: float, optimizer: str, max_grad_norm: float = 1e9, steps: int = 30) -> Tensor:
    """Parameters after training on the loss with both weights times a factor; the ratio of the weights is 3."""
    from spac_repro.optim.loop import create_optimizer

    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 64, 5, generator=generator, dtype=torch.float64)
    model = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    descent = (
        torch.optim.SGD(model.parameters(), 0.01) if optimizer == "sgd" else create_optimizer(optimizer, model, weight_decay=0.0)
    )
    for group in descent.param_groups:
        group["lr"], group["eps"] = 0.01, 1e-30
    for _ in range(steps):
        descent.zero_grad()
        spac([model(response).squeeze(-1) for response in features], 3.0 * factor, 1.0 * factor).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        descent.step()
    return model.weight.detach().clone()


@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_only_the_ratio_matters_to_a_scale_free_optimizer(optimizer, factor):
    torch.testing.assert_close(trained(factor, optimizer), trained(1.0, optimizer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_size_of_the_weights_matters_to_plain_descent_and_where_gradients_are_clipped(factor):
    """In every recipe gradients are clipped (`max_grad_norm`), so there the size of the weights is not neutral."""
    assert (trained(factor, "sgd") - trained(1.0, "sgd")).abs().max() > 1e-3
    clipped = [trained(size, "rmsprop", max_grad_norm=0.02) for size in (factor, 1.0)]
    assert (clipped[0] - clipped[1]).abs().max() > 1e-4


def test_where_every_gradient_is_clipped_the_size_is_neutral_again():
    first, second = (trained(factor, "rmsprop", max_grad_norm=1e-6) for factor in (1.0, 100.0))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=0)  # torch adds 1e-6 to the norm that it divides by


def test_the_penalty_on_the_chosen_is_dpo_positives():
    rho = [values.detach() for values in draws(3)]
    dpop = objectives.dpop(rho[0], rho[1], beta=0.6, chosen_penalty_weight=2.0)
    torch.testing.assert_close(spac(rho, 3.0, 0.0, chosen_penalty_weight=2.0), 3 * dpop)
    critic = spac(rho, 0.0, 1.0)
    torch.testing.assert_close(spac(rho, 3.0, 1.0, chosen_penalty_weight=2.0), 3 * dpop + critic)


def test_a_loss_without_weight_is_refused():
    with pytest.raises(UserError, match="are both 0") as refused:
        recipes.load("tiny", overrides=["methods.spac.preference_weight=0", "methods.spac.critic_weight=0"])
    assert len(str(refused.value)) <= 300
    assert "\n" not in str(refused.value)
