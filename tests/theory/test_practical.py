import numpy as np
import pytest
import torch

from spac_repro.errors import UserError
from spac_repro.theory.instances import many_prompts
from spac_repro.theory.practical import LossConfig, PreferenceIndices, loss_function, train_softmax_policies

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
    for method in (LossConfig("dpo", 0.1), LossConfig("ipo", 0.1, reference_policy="start"), LossConfig("spac", selfplay="exact")):
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
