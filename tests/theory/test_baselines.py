import numpy as np
import pytest
import torch

from spac_repro import objectives
from spac_repro.theory import baselines
from spac_repro.theory.instances import Instance, long_tail
from spac_repro.theory.preference_graph import build_graph, concatenate, sample_graph


@pytest.fixture(scope="module")
def triples():
    """Four responses that all beat each other at least once, so that every optimum is finite."""
    random = np.random.default_rng(3)
    chosen, rejected = np.array([(a, b) for a in range(4) for b in range(4) if a != b] * 2).T
    extra = random.integers(4, size=(2, 20))
    return np.concatenate([chosen, extra[0]]), np.concatenate([rejected, extra[1]])


def test_the_bounded_reward_is_stationary_and_inside():
    data = concatenate([sample_graph(long_tail(), n, 1) for n in (100, 5000)])
    f = baselines.bounded_reward_mle(data, 3.0)
    d = f[data.left] - f[data.right]
    slope = data.losses / (1 + np.exp(-d)) - data.wins / (1 + np.exp(d))
    gradient = data.node_sums(slope, -slope)
    assert f.min() >= 0
    assert f.max() <= 3
    inner = (f > 1e-6) & (f < 3 - 1e-6)
    assert np.abs(gradient[inner]).max() < 1e-3
    assert (f[data.counts == 0] == 0).all()


def test_greedy_is_uniform_over_the_best_responses_with_data():
    data = build_graph(np.zeros(2, int), np.array([0, 1]), np.array([2, 2]), (1, 4))
    assert baselines.greedy(data, np.array([2.0, 2.0 - 1e-7, 0.0, 9.0])).tolist() == [0.5, 0.5, 0, 0]


def test_the_kl_regularized_policy_has_its_closed_form():
    data = build_graph(np.zeros(1, int), np.array([0]), np.array([1]), (1, 3))
    reference, reward = np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 7.0])
    policy = baselines.kl_regularized(data, reference, reward, 0.5)
    assert policy == pytest.approx([np.exp(2) / (1 + np.exp(2)), 1 / (1 + np.exp(2)), 0])


def test_sft_counts_the_chosen():
    data = build_graph(np.zeros(4, int), np.array([0, 0, 1, 2]), np.array([1, 0, 0, 1]), (1, 3))
    assert baselines.sft(data) == pytest.approx([0.5, 0.25, 0.25])


@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_dpo_and_ipo_minimise_the_objectives_the_language_models_use(triples, beta):
    chosen, rejected = triples
    data = build_graph(np.zeros(len(chosen), int), chosen, rejected, (1, 4))
    reference = np.array([0.1, 0.2, 0.3, 0.4])
    for name, policy in (
        ("dpo", baselines.kl_regularized(data, reference, baselines.dpo_reward(data), beta)),
        ("ipo", baselines.ipo(data, reference, baselines.ipo_solution(data), beta)),
    ):
        rho = torch.tensor(np.log(policy / reference), requires_grad=True)
        getattr(objectives, name)(rho[chosen], rho[rejected], beta=beta).mean().backward()
        assert policy.sum() == pytest.approx(1)
        assert rho.grad.abs().max() < 1e-5


def test_the_width_of_pointwise_pessimism_is_the_dense_formula():
    data = sample_graph(Instance(np.linspace(0, 1, 6)[None], np.full((1, 6), 1 / 6), np.ones(1)), 200, 1)
    reward = np.linspace(0, 3, 6)
    information = 1e-3 * np.eye(6)
    for i, j, count in zip(data.left, data.right, data.wins + data.losses, strict=True):
        p = 1 / (1 + np.exp(reward[j] - reward[i]))
        e = np.eye(6)[i] - np.eye(6)[j]
        information += count * p * (1 - p) * np.outer(e, e)
    away = np.eye(6) - data.empirical
    expected = np.sqrt(np.einsum("yi,ij,yj->y", away, np.linalg.inv(information), away))
    assert baselines.confidence_width(data, reward) == pytest.approx(expected)


def test_pointwise_pessimism_never_takes_a_response_without_data():
    data = sample_graph(long_tail(), 30, 2)
    reward = baselines.bounded_reward_mle(data, 3.0)
    policy = baselines.pessimistic_greedy(data, reward, baselines.confidence_width(data, reward), 1.0)
    assert policy.sum() == pytest.approx(1)
    assert (policy[data.counts == 0] == 0).all()
