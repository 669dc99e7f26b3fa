import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

from spac_repro.errors import UserError
from spac_repro.theory.linear_critic import linear_instance, run_spac_t_linear, solve_linear_critic
from spac_repro.theory.preference_graph import sample_preferences


def test_the_linear_optimum_matches_an_independent_solver():
    instance, phi = linear_instance(prompts=4, responses=5, dimension=4, seed=2)
    random = np.random.default_rng(1)
    B, n = 3, 60
    x, chosen, rejected = (np.stack(c) for c in zip(*(sample_preferences(instance, n, s) for s in (1, 2, 3)), strict=True))
    differences = phi[x, chosen] - phi[x, rejected]
    linear, weight = 0.2 * random.normal(size=(B, 4, 5)), np.array([0.3, 0.05, 1.0])
    ours = solve_linear_critic(phi, linear, differences, weight, 3.0)
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


def test_a_linear_critic_generalises_to_responses_without_data():
    instance, phi = linear_instance()
    runs = [np.stack(c) for c in zip(*(sample_preferences(instance, 300, s) for s in range(1, 6)), strict=True)]
    mixture, gap = run_spac_t_linear(instance, phi, tuple(runs), preference_weight=2 * np.sqrt(300), step_size=1.0, iterations=40)
    assert gap < 1e-7
    assert mixture.sum(axis=2) == pytest.approx(1)
    assert instance.suboptimality(mixture).mean() < 0.5 * float(instance.suboptimality(instance.mu))


def test_features_must_represent_a_constant():
    _, phi = linear_instance(prompts=2, responses=5, dimension=4)
    with pytest.raises(UserError, match="constant feature"):
        solve_linear_critic(phi[..., :-1], np.zeros((1, 2, 5)), np.zeros((1, 1, 3)), np.ones(1), 3.0)
    with pytest.raises(UserError, match="λ"):
        solve_linear_critic(phi, np.zeros((1, 2, 5)), np.zeros((1, 1, 4)), -np.ones(1), 3.0)
