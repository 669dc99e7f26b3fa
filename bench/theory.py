"""Speed of the batched critic against L-BFGS-B, called once for each seed and iteration.

    python bench/theory.py [--seeds 20] [--iterations 50] [--pairs 1000]

Both solve the same problems: the critics of SPAC-T's first iterations, 50 responses, λ = 2√n. The batched solver solves all seeds
at once, with a warm start from the previous iteration. L-BFGS-B solves each problem by itself on one core, with the gradient, from
a cold start and, in its favour, from a warm one. Both are timed in one process, in turns. The gap is the Frank–Wolfe gap that the
batched solver reports; for L-BFGS-B it is the excess of its objective over the batched one's.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from spac_repro.theory.critic import solve_critic
from spac_repro.theory.instances import Array, long_tail
from spac_repro.theory.preference_graph import PreferenceGraph, concatenate, sample_graph
from spac_repro.theory.spac_t import mirror_descent_step


def solve_by_lbfgsb(data: PreferenceGraph, linear: Array, weight: float, bound: float, start: Array) -> tuple[Array, float]:
    """Solve a single problem by L-BFGS-B; return f and the objective."""

    def loss(f: Array) -> tuple[float, Array]:
        d = f[data.left] - f[data.right]
        tail = np.log1p(np.exp(-np.abs(d)))
        value = data.wins @ (tail + np.maximum(-d, 0)) + data.losses @ (tail + np.maximum(d, 0))
        slope = data.losses * expit(d) - data.wins * expit(-d)
        return float(linear @ f + weight * value), linear + weight * data.node_sums(slope, -slope)

    solution = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0, bound)] * len(start),
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 5000, "maxfun": 20000},
    )  # fmt: skip
    return solution.x, float(solution.fun)


def measure(seeds: int, iterations: int, pairs: int) -> dict[str, float]:
    """Time the batched solver and L-BFGS-B on the same problems."""
    instance = long_tail()
    bound, weight = instance.bound, 2 / np.sqrt(pairs)
    runs = [sample_graph(instance, pairs, seed) for seed in range(1, seeds + 1)]
    data, size = concatenate(runs), instance.shape[1]
    seconds_spent = {"batched": 0.0, "cold": 0.0, "warm": 0.0}
    gap = excess = 0.0
    policy, values = data.empirical, np.where(data.counts > 0, bound / 2, 0.0)
    cold, warm = values.copy(), values.copy()
    with np.errstate(divide="ignore"):
        logits = np.log(policy)
    for _ in range(iterations):
        linear = policy - data.empirical
        started = time.perf_counter()
        critic = solve_critic(data, linear, np.full(seeds, weight), bound, warm_start=values, tolerance=1e-8)
        seconds_spent["batched"] += time.perf_counter() - started
        values, gap = critic.values, max(gap, float(critic.gap.max()))
        for name, start in (("cold", cold), ("warm", warm)):
            started = time.perf_counter()
            solutions = [solve_by_lbfgsb(run, linear[k * size : (k + 1) * size], weight, bound, start[k * size : (k + 1) * size])
                     for k, run in enumerate(runs)]  # fmt: skip
            seconds_spent[name] += time.perf_counter() - started
            excess = max(excess, *(value - critic.objective[k] for k, (_, value) in enumerate(solutions)))
            if name == "warm":
                warm = np.concatenate([f for f, _ in solutions])
        logits, policy = mirror_descent_step(logits, values, data)
    solves = seeds * iterations
    return {
        "solves": solves,
        **{f"{name}_ms_per_solve": 1e3 * seconds / solves for name, seconds in seconds_spent.items()},
        "ratio_cold": seconds_spent["cold"] / seconds_spent["batched"],
        "ratio_warm": seconds_spent["warm"] / seconds_spent["batched"],
        "batched_worst_gap": gap,
        "lbfgsb_worst_excess": excess,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=1000)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
