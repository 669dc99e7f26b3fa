import numpy as np
import pytest

from spac_repro.errors import UserError
from spac_repro.theory import game
from spac_repro.theory.comparisons import draw, graphs, stack
from spac_repro.theory.critic import solve
from spac_repro.theory.instances import Instance, crowd, prompted


def test_the_leader_follows_the_exponential_rule():
    data = graphs(np.array([0, 1]), np.array([0, 1]), np.array([1, 2]), (2, 3))
    policy = np.array([0.2, 0.3, 0.5, 0.6, 0.4, 0.0])
    advice = np.array([1.0, 0.0, -1.0, 0.5, 0.5, 9.0])
    with np.errstate(divide="ignore"):
        _, after = game.follow(np.log(policy), advice, data)
    weight = policy * np.exp(advice)
    assert after == pytest.approx(np.concatenate([weight[:3] / weight[:3].sum(), weight[3:] / weight[3:].sum()]))


def test_two_rounds_are_what_they_are_by_hand():
    data = draw(crowd(), 200, 3)
    weight, bound, eta = np.full(1, 2 / np.sqrt(200)), 3.0, 0.7
    first = data.empirical
    f = solve(data, first - first, weight, bound, tolerance=1e-8).values
    second = first * np.exp(eta * f)
    second /= second.sum()
    result = game.play(data, penalty=2 * np.sqrt(200), step=eta, rounds=2, bound=bound, marks=[1])
    assert result.mixture == pytest.approx((first + second) / 2)
    assert result.marks[1] == pytest.approx(first)


def test_the_prescribed_step_is_the_best_one():
    kl, R, T = 1.2, 3.0, 50
    best = game.prescribed_step(kl, R, T)
    at_best = game.regret_bound(kl, R, best, T)
    assert at_best == pytest.approx(R * np.sqrt(kl / (2 * T)))
    assert all(game.regret_bound(kl, R, best * c, T) > at_best for c in (0.5, 0.9, 1.1, 2))


@pytest.mark.parametrize("eta", [0.1, 1.0, 5.0])
def test_regret_and_suboptimality_stay_below_their_bounds(eta):
    instance = crowd()
    runs = [(n, seed) for n in (100, 1000) for seed in range(1, 6)]
    data = stack([draw(instance, n, seed) for n, seed in runs])
    comparator = np.tile(instance.comparator[0], len(runs))
    T, penalty = 30, 2 * np.sqrt([n for n, _ in runs])
    result = game.play(data, penalty=penalty, step=eta, rounds=T, bound=3.0)
    start = -np.log(data.empirical.reshape(len(runs), -1)[:, 0])
    regret = game.regret(data, result, comparator, T)
    limit = [game.regret_bound(kl, 3.0, eta, T) for kl in start]
    assert (regret <= np.array(limit) + 1e-12).all()
    truth = np.tile(3.0 * instance.reward[0], len(runs))
    excess = game.excess(data, comparator, truth, penalty, 3.0)
    assert (excess >= -1e-9).all()
    lost = 3.0 * instance.suboptimality(result.mixture.reshape(len(runs), 1, -1))
    # The decomposition holds for the regret that there was, which is tighter than its bound.
    assert (lost <= regret + excess + 1e-9).all()


def test_runs_with_their_own_length_are_what_they_are_alone():
    runs = [draw(prompted(prompts=3, responses=5), n, 1) for n in (40, 90)]
    together = game.play(stack(runs), penalty=[5.0, 9.0], step=[0.5, 1.0], rounds=[4, 9], bound=3.0, marks=[6])
    for k, (run, T, lam, eta) in enumerate(zip(runs, (4, 9), (5.0, 9.0), (0.5, 1.0), strict=True)):
        alone = game.play(run, penalty=lam, step=eta, rounds=T, bound=3.0)
        assert together.mixture[15 * k : 15 * (k + 1)] == pytest.approx(alone.mixture, abs=1e-3)
    assert together.marks[6][:15] == pytest.approx(together.mixture[:15])


def test_a_flipped_critic_is_no_pessimist():
    # A bound that is too wide: with a tight one the class alone keeps rare winners in check, whatever the sign.
    instance = crowd(slack=3.0)
    data = stack([draw(instance, 300, seed) for seed in range(1, 11)])
    lost = [
        instance.suboptimality(
            game.play(data, penalty=2 * np.sqrt(300), step=1.0, rounds=60, bound=9.0, pessimism=p).mixture.reshape(10, 1, -1)
        ).mean()
        for p in (1.0, -1.0)
    ]
    assert lost[1] > lost[0] + 0.3


def test_a_response_or_prompt_never_seen_has_its_documented_answer():
    instance = Instance(np.array([[1.0, 0.5, 0.0], [0.2, 1.0, 0.0]]), np.full((2, 3), 1 / 3), np.array([1.0, 0.0]))
    data = graphs(np.array([0, 0]), np.array([0, 0]), np.array([1, 1]), instance.shape)
    result = game.play(data, penalty=1.0, step=1.0, rounds=5, bound=3.0)
    assert np.isfinite(result.mixture).all()
    assert result.mixture[2] == 0
    assert result.mixture[3:] == pytest.approx(1 / 3)
    known = game.play(data, penalty=1.0, step=1.0, rounds=5, bound=3.0, start=instance.data.ravel())
    assert 0 < known.mixture[2] < 1 / 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"penalty": -1.0}, "λ"),
        ({"penalty": np.nan}, "λ"),
        ({"step": 0.0}, "step"),
        ({"step": np.inf}, "step"),
        ({"rounds": 0}, "rounds"),
        ({"start": np.full(50, 0.1)}, "sum to 1"),
        ({"start": np.full(3, 1 / 3)}, "each of 50"),
    ],
)
def test_a_wrong_game_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        game.play(draw(crowd(), 10, 1), **{"penalty": 1.0, "step": 1.0, "rounds": 1, "bound": 3.0, **change})
