import numpy as np
import pytest
import torch

from spac_repro.errors import UserError
from spac_repro.theory.baselines import dpo_reward, kl_regularized, sft
from spac_repro.theory.instances import many_prompts
from spac_repro.theory.practical import LossConfig, PreferenceIndices, loss_function, train_softmax_policies
from spac_repro.theory.preference_graph import sample_graph
from spac_repro.theory.provable import chi_squared_regularized, chipo_reward, rpo

SMALL = many_prompts(prompts=4, responses=5)


def test_a_seeds_result_does_not_depend_on_its_neighbours():
    together = train_softmax_policies(SMALL, LossConfig("spac"), pairs=60, seeds=[1, 2], iterations=2, steps=10)
    alone = train_softmax_policies(SMALL, LossConfig("spac"), pairs=60, seeds=[2], iterations=2, steps=10)
    assert together.shape == (3, 2)
    assert together[:, 1] == pytest.approx(alone[:, 0], abs=1e-12)
    assert together[0] == pytest.approx(SMALL.value(SMALL.mu))


@pytest.mark.parametrize("critic", ["smoothed", "linear"])
@pytest.mark.parametrize("baseline", ["both", "chosen", "rejected"])
def test_the_exact_loss_is_the_sampled_ones_expectation(critic, baseline):
    random = np.random.default_rng(0)
    data = PreferenceIndices(5, *(torch.tensor(random.integers(k, size=(1, 30))) for k in (4, 5, 5)))
    policy = torch.log_softmax(torch.tensor(random.normal(size=(1, 4, 5))), dim=-1)
    rho = torch.tensor(random.normal(size=(1, 4, 5)))
    common = {"critic_loss": critic, "critic_baseline": baseline, "preference_weight": 3.0}
    exact = loss_function(LossConfig("spac", selfplay="exact", **common), data, policy, [1], 0)(rho).mean()
    draws = [loss_function(LossConfig("spac", **common), data, policy, [seed], 0)(rho).mean().item() for seed in range(1000)]
    assert float(exact) == pytest.approx(np.mean(draws), abs=5 * np.std(draws) / np.sqrt(len(draws)))


def test_spin_is_spac_with_nothing_but_the_critic_on_the_chosen():
    spin = train_softmax_policies(SMALL, LossConfig("spin"), pairs=60, seeds=[1], iterations=2, steps=10)
    same = train_softmax_policies(
        SMALL, LossConfig("spac", preference_weight=0.0, critic_baseline="chosen"), pairs=60, seeds=[1], iterations=2, steps=10
    )
    assert spin == pytest.approx(same, abs=1e-12)


def test_every_loss_moves_the_policy():
    for method in (
        LossConfig("dpo", 0.1),
        LossConfig("chipo", 0.1),
        LossConfig("rpo", 0.1),
        LossConfig("ipo", 0.1, reference_policy="start"),
        LossConfig("spac", selfplay="exact"),
    ):
        values = train_softmax_policies(SMALL, method, pairs=60, seeds=[1], iterations=1, steps=5)
        assert np.isfinite(values).all()
        assert values[1, 0] != values[0, 0]


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="exact"):
        train_softmax_policies(SMALL, LossConfig("spac", critic_baseline="none", selfplay="exact"), pairs=10, seeds=[1])
    with pytest.raises(UserError, match="seeds"):
        train_softmax_policies(SMALL, LossConfig("spac"), pairs=10, seeds=[])
    with pytest.raises(UserError, match="pairs"):
        train_softmax_policies(SMALL, LossConfig("spac"), pairs=0, seeds=[1])


def test_chipo_and_rpo_move_towards_their_exact_optimum():
    """The practical losses on softmax policies and the exact solvers of `provable` agree, where Adam has steps enough."""
    instance = many_prompts(prompts=2, responses=3)
    data = sample_graph(instance, 400, 1)
    mu = instance.mu.ravel()
    exact = {
        LossConfig("chipo", 1.0, reward_bound=3.0, reference_policy="start"): chi_squared_regularized(
            data, mu, chipo_reward(data, 3.0), 1.0
        ),
        LossConfig("rpo", 0.5, sft_weight=0.3, reference_policy="start"): rpo(data, mu, sft(data), 0.3, 0.5),
        LossConfig("dpo", 0.5, reference_policy="start"): kl_regularized(data, mu, dpo_reward(data), 0.5),
    }
    for config, policy in exact.items():
        reached = train_softmax_policies(instance, config, pairs=400, seeds=[1], iterations=1, steps=1500, learning_rate=0.02)
        assert reached[-1, 0] == pytest.approx(float(instance.value(policy.reshape(instance.shape))), abs=2e-3), config.loss
