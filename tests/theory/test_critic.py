import numpy as np
import pytest
from scipy.optimize import Bounds, minimize

from spac_repro.errors import UserError
from spac_repro.theory.critic import solve_critic
from spac_repro.theory.instances import Instance, long_tail
from spac_repro.theory.preference_graph import build_graph, concatenate, sample_graph


def independent(data, k, linear, weight, bound):
    """The same problem, written down anew and handed to scipy's trust-constr and SLSQP: its value."""
    a, b = data.offsets[k], data.offsets[k + 1]
    edges = [(i - a, j - a, w, m) for i, j, w, m in zip(data.left, data.right, data.wins, data.losses, strict=True) if a <= i < b]
    i, j, w, m = (np.array(column) for column in zip(*edges, strict=True))

    def value(f):
        return linear[a:b] @ f + weight[k] * (w @ np.logaddexp(0, f[j] - f[i]) + m @ np.logaddexp(0, f[i] - f[j]))

    def slope(f):
        g = weight[k] * (m / (1 + np.exp(f[j] - f[i])) - w / (1 + np.exp(f[i] - f[j])))
        return linear[a:b] + np.bincount(i, g, b - a) - np.bincount(j, g, b - a)

    def curvature(f):
        h = weight[k] * (w + m) / (2 + 2 * np.cosh(f[i] - f[j]))
        matrix = np.zeros((b - a, b - a))
        for p, q, s in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            np.add.at(matrix, (p, q), s * h)
        return matrix

    start = np.full(b - a, bound / 2)
    found = minimize(
        value, start, jac=slope, hess=curvature, method="trust-constr", bounds=Bounds(0, bound),
        options={"gtol": 1e-10, "xtol": 1e-12, "barrier_tol": 1e-11, "maxiter": 1500},
    )  # fmt: skip
    # An interior point stops short of the bound; a second, different method walks the last step.
    polished = minimize(value, found.x, jac=slope, method="SLSQP", bounds=Bounds(0, bound), options={"ftol": 1e-14})
    return min(value(np.clip(found.x, 0, bound)), value(np.clip(polished.x, 0, bound)))


@pytest.mark.parametrize(("bound", "preference_weight"), [(3.0, 2.0), (1.0, 20.0), (9.0, 0.5)])
def test_the_optimum_matches_an_independent_solver(bound, preference_weight):
    random = np.random.default_rng(5)
    runs = []
    for n in (30, 200, 1000):
        instance = Instance(random.uniform(size=(1, 12)), random.dirichlet(np.ones(12), size=1), np.ones(1))
        runs.append(sample_graph(instance, n, seed=n))
    data = concatenate(runs)
    policy = np.concatenate([random.dirichlet(np.ones(12)) for _ in runs])
    linear, weight = policy - data.empirical, preference_weight / np.sqrt(data.pairs)
    ours = solve_critic(data, linear, weight, bound)
    assert ours.gap.max() < 1e-9
    for k in range(len(runs)):
        theirs = independent(data, k, linear, weight, bound)
        assert ours.objective[k] == pytest.approx(theirs, abs=1e-6)
        assert ours.objective[k] <= theirs + 1e-8


def test_the_gap_bounds_how_much_better_anything_could_be():
    data = sample_graph(long_tail(), 300, 1)
    linear = np.eye(50)[7] - data.empirical
    weight = np.array([2 / np.sqrt(300)])
    exact = solve_critic(data, linear, weight, 3.0).objective[0]
    for steps in range(6):
        rough = solve_critic(data, linear, weight, 3.0, max_steps=steps)
        assert -1e-9 <= rough.objective[0] - exact <= rough.gap[0] + 1e-12


def test_two_responses_have_a_closed_form():
    # σ(d) = 3/4 where nothing but the preferences speaks; the linear term c moves it to 3/4 − c/w over four pairs.
    data = build_graph(np.zeros(4, int), np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0]), (1, 2))
    for c in (0.0, 0.2, -0.1):
        found = solve_critic(data, np.array([c, -c]), np.ones(1), 5.0)
        share = (3 - c) / 4
        assert found.values[0] - found.values[1] == pytest.approx(np.log(share / (1 - share)), abs=1e-4)


def test_without_preferences_it_is_a_linear_programme():
    data = sample_graph(long_tail(), 100, 1)
    linear = np.linspace(-1, 1, 50)
    found = solve_critic(data, linear, np.zeros(1), 3.0)
    assert (found.values == np.where(linear > 0, 0.0, 3.0)).all()
    assert found.objective[0] == pytest.approx(3 * linear[linear < 0].sum())


def test_a_response_without_data_gets_zero_where_the_policy_samples_it():
    data = sample_graph(long_tail(), 50, 1)
    unseen = data.counts == 0
    assert unseen.any()
    uniform = solve_critic(data, np.full(50, 1 / 50) - data.empirical, np.full(1, 0.3), 3.0)
    assert (uniform.values[unseen] == 0).all()
    silent = solve_critic(data, np.zeros(50), np.full(1, 0.3), 3.0)
    assert (silent.values[unseen] == 0).all()


def test_a_batch_gives_the_solutions_of_its_parts():
    runs = [sample_graph(long_tail(poor=poor), n, seed) for poor, n, seed in ((45, 100, 1), (200, 50, 2), (10, 3000, 3))]
    data = concatenate(runs)
    random = np.random.default_rng(0)
    policy = np.concatenate([random.dirichlet(np.ones(len(run.counts))) for run in runs])
    together = solve_critic(data, policy - data.empirical, 2 / np.sqrt(data.pairs), 3.0)
    for k, run in enumerate(runs):
        inside = slice(data.offsets[k], data.offsets[k + 1])
        alone = solve_critic(run, policy[inside] - run.empirical, 2 / np.sqrt(run.pairs), 3.0)
        assert together.objective[k] == pytest.approx(alone.objective[0], abs=1e-8)


def test_a_warm_start_does_not_change_the_solution():
    data = sample_graph(long_tail(), 300, 4)
    weight = np.full(1, 2 / np.sqrt(300))
    cold = solve_critic(data, np.eye(50)[0] - data.empirical, weight, 3.0)
    warm = solve_critic(data, np.eye(50)[0] - data.empirical, weight, 3.0, warm_start=np.linspace(-1, 9, 50))
    assert warm.objective[0] == pytest.approx(cold.objective[0], abs=1e-8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.array([-1.0])}, "λ"),
        ({"weight": np.array([np.nan])}, "λ"),
        ({"linear": np.full(50, np.nan)}, "not finite"),
        ({"linear": np.zeros(3)}, "shape"),
        ({"bound": 0.0}, "bound"),
    ],
)
def test_a_wrong_problem_is_refused(change, words):
    data = sample_graph(long_tail(), 10, 1)
    with pytest.raises(UserError, match=words):
        solve_critic(data, **{"linear": np.zeros(50), "weight": np.ones(1), "bound": 3.0, **change})
