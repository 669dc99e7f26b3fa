import numpy as np
import pytest

from spac_repro.errors import UserError
from spac_repro.theory import spac_t
from spac_repro.theory.critic import solve_critic
from spac_repro.theory.instances import Instance, long_tail, many_prompts
from spac_repro.theory.preference_graph import build_graph, concatenate, sample_graph


def test_the_policy_update_is_exponential_in_the_critic():
    data = build_graph(np.array([0, 1]), np.array([0, 1]), np.array([1, 2]), (2, 3))
    policy = np.array([0.2, 0.3, 0.5, 0.6, 0.4, 0.0])
    advice = np.array([1.0, 0.0, -1.0, 0.5, 0.5, 9.0])
    with np.errstate(divide="ignore"):
        _, after = spac_t.mirror_descent_step(np.log(policy), advice, data)
    weight = policy * np.exp(advice)
    assert after == pytest.approx(np.concatenate([weight[:3] / weight[:3].sum(), weight[3:] / weight[3:].sum()]))


def test_two_iterations_match_a_computation_by_hand():
    data = sample_graph(long_tail(), 200, 3)
    weight, bound, eta = np.full(1, 2 / np.sqrt(200)), 3.0, 0.7
    first = data.empirical
    f = solve_critic(data, first - first, weight, bound, tolerance=1e-8).values
    second = first * np.exp(eta * f)
    second /= second.sum()
    result = spac_t.run_spac_t(data, preference_weight=2 * np.sqrt(200), step_size=eta, iterations=2, bound=bound, checkpoints=[1])
    assert result.mixture == pytest.approx((first + second) / 2)
    assert result.checkpoints[1] == pytest.approx(first)


def test_the_prescribed_step_is_the_best_one():
    kl, R, T = 1.2, 3.0, 50
    best = spac_t.prescribed_step_size(kl, R, T)
    at_best = spac_t.regret_bound(kl, R, best, T)
    assert at_best == pytest.approx(R * np.sqrt(kl / (2 * T)))
    assert all(spac_t.regret_bound(kl, R, best * c, T) > at_best for c in (0.5, 0.9, 1.1, 2))


@pytest.mark.parametrize("eta", [0.1, 1.0, 5.0])
def test_regret_and_suboptimality_stay_below_their_bounds(eta):
    instance = long_tail()
    runs = [(n, seed) for n in (100, 1000) for seed in range(1, 6)]
    data = concatenate([sample_graph(instance, n, seed) for n, seed in runs])
    comparator = np.tile(instance.comparator[0], len(runs))
    T, preference_weight = 30, 2 * np.sqrt([n for n, _ in runs])
    result = spac_t.run_spac_t(data, preference_weight=preference_weight, step_size=eta, iterations=T, bound=3.0)
    start = -np.log(data.empirical.reshape(len(runs), -1)[:, 0])
    regret = spac_t.regret(data, result, comparator, T)
    limit = [spac_t.regret_bound(kl, 3.0, eta, T) for kl in start]
    assert (regret <= np.array(limit) + 1e-12).all()
    truth = np.tile(3.0 * instance.reward[0], len(runs))
    excess = spac_t.statistical_error(data, comparator, truth, preference_weight, 3.0)
    assert (excess >= -1e-9).all()
    lost = 3.0 * instance.suboptimality(result.mixture.reshape(len(runs), 1, -1))
    # The decomposition holds for the regret that there was, which is tighter than its bound.
    assert (lost <= regret + excess + 1e-9).all()


def test_runs_of_different_lengths_give_the_same_results_as_alone():
    runs = [sample_graph(many_prompts(prompts=3, responses=5), n, 1) for n in (40, 90)]
    together = spac_t.run_spac_t(
        concatenate(runs), preference_weight=[5.0, 9.0], step_size=[0.5, 1.0], iterations=[4, 9], bound=3.0, checkpoints=[6]
    )
    for k, (run, T, lam, eta) in enumerate(zip(runs, (4, 9), (5.0, 9.0), (0.5, 1.0), strict=True)):
        alone = spac_t.run_spac_t(run, preference_weight=lam, step_size=eta, iterations=T, bound=3.0)
        assert together.mixture[15 * k : 15 * (k + 1)] == pytest.approx(alone.mixture, abs=1e-3)
    assert together.checkpoints[6][:15] == pytest.approx(together.mixture[:15])


def test_a_critic_with_flipped_sign_loses_more():
    # A bound that is too wide: with a tight one the class alone keeps rare winners in check, whatever the sign.
    instance = long_tail(slack=3.0)
    data = concatenate([sample_graph(instance, 300, seed) for seed in range(1, 11)])
    lost = [
        instance.suboptimality(
            spac_t.run_spac_t(
                data, preference_weight=2 * np.sqrt(300), step_size=1.0, iterations=60, bound=9.0, pessimism=p
            ).mixture.reshape(10, 1, -1)
        ).mean()
        for p in (1.0, -1.0)
    ]
    assert lost[1] > lost[0] + 0.3


def test_a_response_or_prompt_without_data_has_its_documented_probability():
    instance = Instance(np.array([[1.0, 0.5, 0.0], [0.2, 1.0, 0.0]]), np.full((2, 3), 1 / 3), np.array([1.0, 0.0]))
    data = build_graph(np.array([0, 0]), np.array([0, 0]), np.array([1, 1]), instance.shape)
    result = spac_t.run_spac_t(data, preference_weight=1.0, step_size=1.0, iterations=5, bound=3.0)
    assert np.isfinite(result.mixture).all()
    assert result.mixture[2] == 0
    assert result.mixture[3:] == pytest.approx(1 / 3)
    known = spac_t.run_spac_t(
        data, preference_weight=1.0, step_size=1.0, iterations=5, bound=3.0, initial_policy=instance.mu.ravel()
    )
    assert 0 < known.mixture[2] < 1 / 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preference_weight": -1.0}, "λ"),
        ({"preference_weight": np.nan}, "λ"),
        ({"step_size": 0.0}, "step"),
        ({"step_size": np.inf}, "step"),
        ({"iterations": 0}, "iterations"),
        ({"initial_policy": np.full(50, 0.1)}, "sum to 1"),
        ({"initial_policy": np.full(3, 1 / 3)}, "each of 50"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        spac_t.run_spac_t(
            sample_graph(long_tail(), 10, 1),
            **{"preference_weight": 1.0, "step_size": 1.0, "iterations": 1, "bound": 3.0, **change},
        )
