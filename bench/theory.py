"""How much faster the batched critic is than calling L-BFGS-B once for each seed and round.

    python bench/theory.py [--seeds 20] [--rounds 50] [--pairs 1000]

Both solve the same problems: the critics that SPAC-T meets in its first rounds, 50 responses, λ = 2√n. The batched solver takes
all seeds at once, warm from the round before; L-BFGS-B is given each problem cold and, in its favour, warm, with its gradient, on
one core. The time of both is taken in one process, in turns; the gap is the rigorous one that the batched solver reports, and for
L-BFGS-B its excess over the batched value.
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


def one(data: PreferenceGraph, linear: Array, weight: float, bound: float, start: Array) -> tuple[Array, float]:
    """A single problem by L-BFGS-B: f and its value."""

    def loss(f: Array) -> tuple[float, Array]:
        d = f[data.left] - f[data.right]
        tail = np.log1p(np.exp(-np.abs(d)))
        value = data.wins @ (tail + np.maximum(-d, 0)) + data.losses @ (tail + np.maximum(d, 0))
        slope = data.losses * expit(d) - data.wins * expit(-d)
        return float(linear @ f + weight * value), linear + weight * data.node_sums(slope, -slope)

    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0, bound)] * len(start),
        options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 5000, "maxfun": 20000},
    )  # fmt: skip
    return found.x, float(found.fun)


def measure(seeds: int, rounds: int, pairs: int) -> dict[str, float]:
    instance = long_tail()
    bound, weight = instance.bound, 2 / np.sqrt(pairs)
    runs = [sample_graph(instance, pairs, seed) for seed in range(1, seeds + 1)]
    data, size = concatenate(runs), instance.shape[1]
    spent = {"batched": 0.0, "cold": 0.0, "warm": 0.0}
    gap = excess = 0.0
    policy, values = data.empirical, np.where(data.counts > 0, bound / 2, 0.0)
    cold, warm = values.copy(), values.copy()
    with np.errstate(divide="ignore"):
        logits = np.log(policy)
    for _ in range(rounds):
        linear = policy - data.empirical
        begun = time.perf_counter()
        critic = solve_critic(data, linear, np.full(seeds, weight), bound, warm_start=values, tolerance=1e-8)
        spent["batched"] += time.perf_counter() - begun
        values, gap = critic.values, max(gap, float(critic.gap.max()))
        for name, start in (("cold", cold), ("warm", warm)):
            begun = time.perf_counter()
            found = [one(run, linear[k * size : (k + 1) * size], weight, bound, start[k * size : (k + 1) * size])
                     for k, run in enumerate(runs)]  # fmt: skip
            spent[name] += time.perf_counter() - begun
            excess = max(excess, *(value - critic.objective[k] for k, (_, value) in enumerate(found)))
            if name == "warm":
                warm = np.concatenate([f for f, _ in found])
        logits, policy = mirror_descent_step(logits, values, data)
    solves = seeds * rounds
    return {
        "solves": solves,
        **{f"{name}_ms_per_solve": 1e3 * seconds / solves for name, seconds in spent.items()},
        "ratio_cold": spent["cold"] / spent["batched"],
        "ratio_warm": spent["warm"] / spent["batched"],
        "batched_worst_gap": gap,
        "lbfgsb_worst_excess": excess,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=1000)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
