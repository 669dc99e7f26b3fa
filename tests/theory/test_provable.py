import numpy as np
import pytest
from scipy.optimize import minimize

from spac_repro.errors import UserError
from spac_repro.theory import baselines
from spac_repro.theory.instances import long_tail, many_prompts
from spac_repro.theory.preference_graph import build_graph, concatenate, sample_graph
from spac_repro.theory.provable import chi_squared_regularized, chipo_reward, rpo


def rpo_losses(policies: np.ndarray, reference: np.ndarray, pairs: np.ndarray, eta: float, beta: float) -> np.ndarray:
    """Equation 4.8 of arXiv 2405.16436 with the chosen responses as π_base, written down once more: mean losses of [k, Y]."""
    rho = np.log(policies / reference)
    margin = beta * (rho[:, pairs[:, 0]] - rho[:, pairs[:, 1]])
    return np.log1p(np.exp(-margin)).mean(axis=1) - eta * beta * np.log(policies[:, pairs[:, 0]]).mean(axis=1)


def graph(pairs: np.ndarray, responses: int):
    return build_graph(np.zeros(len(pairs), int), pairs[:, 0], pairs[:, 1], (1, responses))


@pytest.mark.parametrize(("eta", "beta"), [(0.01, 0.1), (0.1, 0.001), (0.3, 1.0), (1.0, 10.0)])
def test_rpo_is_the_minimum_that_l_bfgs_finds_over_softmax_policies(eta, beta):
    random = np.random.default_rng(4)
    pairs = np.concatenate([np.array([(a, b) for a in range(6) for b in range(6) if a != b]), random.integers(6, size=(30, 2))])
    reference = random.dirichlet(np.ones(6))
    data = graph(pairs, 6)

    def softmax(logits):
        weight = np.exp(logits - logits.max())
        return weight / weight.sum()

    found = minimize(
        lambda logits: rpo_losses(softmax(logits)[None], reference, pairs, eta, beta)[0] / beta, np.log(reference),
        method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10_000, "maxfun": 200_000},
    )  # fmt: skip
    policy = rpo(data, reference, baselines.sft(data), eta, beta)
    assert policy.sum() == pytest.approx(1)
    assert rpo_losses(policy[None], reference, pairs, eta, beta)[0] / beta <= found.fun + 1e-9
    assert policy == pytest.approx(softmax(found.x), abs=3e-3)


def test_no_policy_on_a_grid_has_a_lower_rpo_loss():
    pairs = np.array([(0, 1)] * 3 + [(0, 2)] * 2 + [(1, 2)] + [(2, 1)])
    steps = np.arange(1, 300)
    a, b = (grid[steps[:, None] + steps < 300] / 300 for grid in np.meshgrid(steps, steps, indexing="ij"))
    grid, reference = np.stack([a, b, 1 - a - b], axis=1), np.array([0.2, 0.5, 0.3])
    for eta, beta in ((0.03, 1.0), (0.5, 0.3)):
        data = graph(pairs, 3)
        policy = rpo(data, reference, baselines.sft(data), eta, beta)
        losses = rpo_losses(grid, reference, pairs, eta, beta)
        assert rpo_losses(policy[None], reference, pairs, eta, beta)[0] <= losses.min()
        assert np.abs(policy - grid[losses.argmin()]).max() < 0.01
        wrong = rpo(data, reference, baselines.sft(data)[[1, 0, 2]], eta, beta)  # another distribution in place of the chosen ones
        assert rpo_losses(wrong[None], reference, pairs, eta, beta)[0] > losses.min() + 0.003


def test_a_response_that_was_never_chosen_is_never_taken():
    data = concatenate([sample_graph(long_tail(), n, 1) for n in (100, 1000)])
    chosen = baselines.sft(data)
    policy = rpo(data, np.tile(long_tail().mu[0], 2), chosen, 0.1, 0.01)
    assert ((policy == 0) == (chosen == 0)).all()
    assert data.problem_sums(policy) == pytest.approx([1, 1])


def test_a_large_eta_imitates_the_chosen_and_a_small_one_is_dpo():
    random = np.random.default_rng(7)
    pairs = np.concatenate([np.array([(a, b) for a in range(4) for b in range(4) if a != b]), random.integers(4, size=(20, 2))])
    data, reference = graph(pairs, 4), np.array([0.1, 0.2, 0.3, 0.4])
    chosen = baselines.sft(data)
    assert rpo(data, reference, chosen, 1e4, 1.0) == pytest.approx(chosen, abs=1e-3)
    dpo = baselines.kl_regularized(data, reference, baselines.dpo_reward(data), 1.0)
    assert rpo(data, reference, chosen, 1e-6, 1.0) == pytest.approx(dpo, abs=1e-3)


def test_problems_are_independent_and_a_prompt_without_data_keeps_the_reference():
    instance = many_prompts(prompts=6, responses=5)
    data = sample_graph(instance, 12, 3)
    assert (data.prompt_share == 0).any()
    reference = instance.mu.ravel()
    together = rpo(data, reference, baselines.sft(data), 0.1, 0.3)
    empty = (data.prompt_share == 0)[data.problem]
    assert together[empty] == pytest.approx(reference[empty])
    for k in np.flatnonzero(data.prompt_share):
        only = np.arange(6) == k
        part = data.subset(only)
        alone = rpo(part, reference[data.problem == k], baselines.sft(part), 0.1, 0.3)
        assert together[data.problem == k] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(("eta", "beta"), [(0.0, 1.0), (1.0, -1.0), (np.nan, 1.0)])
def test_settings_that_are_not_positive_are_refused(eta, beta):
    data = graph(np.array([(0, 1)]), 2)
    with pytest.raises(UserError, match="positive"):
        rpo(data, np.full(2, 0.5), baselines.sft(data), eta, beta)


def simplex(steps: int = 200) -> np.ndarray:
    """All policies on three responses whose probabilities are positive multiples of 1/steps."""
    a, b = np.meshgrid(np.arange(1, steps), np.arange(1, steps), indexing="ij")
    inside = a + b < steps
    return np.stack([a[inside], b[inside], steps - a[inside] - b[inside]], axis=1) / steps


@pytest.mark.parametrize("beta", [0.05, 1.0, 20.0])
def test_the_chi_squared_policy_is_the_maximum_that_slsqp_finds(beta):
    data = concatenate([sample_graph(long_tail(), 50, seed) for seed in (1, 2)])
    random = np.random.default_rng(5)
    reference = np.concatenate([random.dirichlet(np.ones(50)) for _ in range(2)])
    reference[3] = 0.0
    reference /= data.problem_sums(reference)[data.problem]
    reward = random.uniform(0, 3, size=100)
    policy = chi_squared_regularized(data, reference, reward, beta)
    assert data.problem_sums(policy) == pytest.approx([1, 1])
    assert policy[3] == 0
    ref, r = np.delete(reference[:50], 3), np.delete(reward[:50], 3)

    def lost(pi):
        z = np.maximum(pi, 1e-300) / ref
        return -(pi @ r) + beta * (ref @ ((z - 1) ** 2 / 2 + z * np.log(z)))

    found = minimize(
        lost, ref, method="SLSQP", bounds=[(1e-12, 1)] * 49, constraints={"type": "eq", "fun": lambda pi: pi.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    ours = np.delete(policy[:50], 3)
    assert lost(ours) <= found.fun + 1e-9
    assert ours == pytest.approx(found.x, abs=1e-3)


def test_the_chi_squared_policy_of_a_large_beta_is_the_reference_and_of_a_small_one_is_greedy():
    data = build_graph(np.zeros(1, int), np.array([0]), np.array([1]), (1, 3))
    reference, reward = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, 0.9])
    assert chi_squared_regularized(data, reference, reward, 1e4) == pytest.approx(reference, abs=1e-4)
    assert chi_squared_regularized(data, reference, reward, 1e-3)[0] > 0.99


def chipo_losses(policies: np.ndarray, reference: np.ndarray, pairs: np.ndarray, beta: float, bound: float) -> np.ndarray:
    """Algorithm 1 of arXiv 2407.13399, written down once more: the mean loss of each policy [k, Y] on pairs [n, 2]."""
    z = policies / reference
    link = z + np.log(z)
    margin = beta * (link[:, pairs[:, 0]] - link[:, pairs[:, 1]])
    return np.log1p(np.exp(-np.clip(margin, -2 * bound, 2 * bound))).mean(axis=1)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("labels", ["mixed", "one response always wins"])
def test_no_policy_on_a_grid_has_a_lower_chipo_loss(beta, labels):
    pairs = [(0, 1)] * 5 + [(0, 2)] * 4 + [(1, 2)] * 3
    pairs = np.array(pairs + ([(1, 0)] * 3 + [(2, 0), (2, 1), (2, 1)] if labels == "mixed" else [(2, 1)]))
    reference, bound = np.array([0.2, 0.5, 0.3]), 1.5
    data = build_graph(np.zeros(len(pairs), int), pairs[:, 0], pairs[:, 1], (1, 3))
    policy = chi_squared_regularized(data, reference, chipo_reward(data, bound), beta)
    ours = chipo_losses(policy[None], reference, pairs, beta, bound)[0]
    lowest = chipo_losses(simplex(), reference, pairs, beta, bound).min()
    assert ours <= lowest + 1e-9
    assert ours < chipo_losses(reference[None], reference, pairs, beta, bound)[0] - 0.01


def test_chipo_clips_a_pair_that_one_response_always_wins_and_takes_the_smallest_rewards():
    data = build_graph(np.zeros(3, int), np.array([0, 0, 1]), np.array([1, 1, 2]), (1, 4))
    assert chipo_reward(data, 1.5) == pytest.approx([3.0, 0.0, -3.0, 0.0], abs=0.05)
