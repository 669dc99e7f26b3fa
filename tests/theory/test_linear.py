import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

from spac_repro.errors import UserError
from spac_repro.theory.comparisons import sample
from spac_repro.theory.linear import featured, play_linear, solve_linear


def test_the_linear_optimum_is_an_independent_solvers():
    instance, phi = featured(prompts=4, responses=5, dimension=4, seed=2)
    random = np.random.default_rng(1)
    B, n = 3, 60
    x, chosen, rejected = (np.stack(c) for c in zip(*(sample(instance, n, s) for s in (1, 2, 3)), strict=True))
    differences = phi[x, chosen] - phi[x, rejected]
    linear, weight = 0.2 * random.normal(size=(B, 4, 5)), np.array([0.3, 0.05, 1.0])
    ours = solve_linear(phi, linear, differences, weight, 3.0)
    assert ours.gap.max() < 1e-8
    flat = phi.reshape(-1, 4)
    for b in range(B):
        c = linear[b].ravel() @ flat

        def value(w, c=c, b=b):
            return c @ w + weight[b] * np.logaddexp(0, -differences[b] @ w).sum()

        def slope(w, c=c, b=b):
            return c - weight[b] * differences[b].T @ (1 / (1 + np.exp(differences[b] @ w)))

        box = LinearConstraint(flat, 0, 3.0)
        found = minimize(
            value, np.array([0, 0, 0, 1.5]), jac=slope, method="trust-constr", constraints=box,
            options={"gtol": 1e-10, "xtol": 1e-13, "barrier_tol": 1e-10, "maxiter": 2000},
        )  # fmt: skip
        assert ours.objective[b] == pytest.approx(found.fun, abs=1e-6)


def test_a_linear_critic_learns_about_what_it_never_saw():
    instance, phi = featured()
    runs = [np.stack(c) for c in zip(*(sample(instance, 300, s) for s in range(1, 6)), strict=True)]
    mixture, gap = play_linear(instance, phi, tuple(runs), penalty=2 * np.sqrt(300), step=1.0, rounds=40)
    assert gap < 1e-7
    assert mixture.sum(axis=2) == pytest.approx(1)
    assert instance.suboptimality(mixture).mean() < 0.5 * float(instance.suboptimality(instance.data))


def test_features_must_be_able_to_say_nothing():
    _, phi = featured(prompts=2, responses=5, dimension=4)
    with pytest.raises(UserError, match="constant feature"):
        solve_linear(phi[..., :-1], np.zeros((1, 2, 5)), np.zeros((1, 1, 3)), np.ones(1), 3.0)
    with pytest.raises(UserError, match="λ"):
        solve_linear(phi, np.zeros((1, 2, 5)), np.zeros((1, 1, 4)), -np.ones(1), 3.0)
