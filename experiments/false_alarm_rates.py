"""Simulate how often verification fails correct runs: by the skewness of their scores, by the file, and for the tabular setting.

    python experiments/false_alarm_rates.py
    python experiments/false_alarm_rates.py --theory 500 --every-row

The first command takes seconds. The second one also computes the primary rows of the tabular setting on that many fresh seeds,
from 1001, and draws families of 20 and 20 seeds from them. With `--every-row` it includes the five rows that take longest, on 200
seeds.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from spac_repro.theory import spac_t
from spac_repro.theory.instances import Instance, long_tail, many_prompts, shrinking_gap
from spac_repro.theory.practical import LossConfig, train_softmax_policies
from spac_repro.theory.result import log_log_slope
from spac_repro.theory.vectorized import Batch
from spac_repro.trust.expected import ExpectedRow, expected_path, load_expected
from spac_repro.trust.run_quantiles import SKEWNESS, furthest_run_quantile, mean_quantile, spread_quantile
from spac_repro.trust.statistics import MEAN_SHARE, RUNS_SHARE, SMALL_SKEWNESS, SPREAD_SHARE

Array = np.ndarray[Any, np.dtype[np.float64]]

FAMILIES = 100_000
SKEWNESSES = (0.0, 1.0, 2.0, 3.5)
ALPHA = 0.01  # of a family
TINY_ROWS = 2
FIRST_SEED, SLOW_SEEDS = 1001, 200


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theory", type=int, default=0, metavar="SEEDS", help="Fresh seeds of the tabular setting's primary rows.")
    parser.add_argument("--every-row", action="store_true", help="With --theory: include the rows that take longest.")
    arguments = parser.parse_args()
    print(by_skewness(), by_file(), sep="\n\n")
    if arguments.theory:
        print("", by_theory_row(list(range(FIRST_SEED, FIRST_SEED + arguments.theory)), arguments.every_row), sep="\n")


def by_skewness() -> str:
    """False alarms of a family of two primary rows, as `tiny` has, by seeds in the file, fresh runs and skewness."""
    lines = [head("K", "k", "rows state their skewness", *(f"skewness {skewness:g}" for skewness in SKEWNESSES))]
    for stated in (False, True):
        for seeds, runs in ((5, 1), (5, 5), (10, 1), (10, 2), (10, 5), (10, 10), (20, 1), (20, 5), (20, 20)):
            rates = []
            for skewness in SKEWNESSES:
                scores = pearson(np.random.default_rng(1), skewness, (FAMILIES, seeds + runs))
                row = rejected(scores[:, :seeds], scores[:, seeds:], ALPHA / TINY_ROWS, skewness if stated else 0.0).mean()
                rates.append(f"{1 - (1 - row) ** TINY_ROWS:.4f}")
            lines.append(line(seeds, runs, "yes" if stated else "no", *rates))
    return "\n".join(lines)


def by_file() -> str:
    """False alarms of one run for the files that could have been measured: two independent normal rows, K seeds each."""
    lines = [head("K", "mean over files", "median file", "90 % of files below", "99 % of files below", "files above 2 α")]
    for seeds in (5, 10, 20, 30, 50):
        rng = np.random.default_rng(0)
        files = rng.normal(size=(FAMILIES, TINY_ROWS, seeds))
        half = stdtrit(seeds - 1, 1 - ALPHA / TINY_ROWS / 2) * files.std(axis=2, ddof=1) * np.sqrt(1 + 1 / seeds)
        mean = files.mean(axis=2)
        inside = ndtr(mean + half) - ndtr(mean - half)
        rates = 1 - inside.prod(axis=1)
        quantiles = [f"{rate:.4f}" for rate in np.quantile(rates, [0.5, 0.9, 0.99])]
        lines.append(line(seeds, f"{rates.mean():.4f}", *quantiles, f"{(rates > 2 * ALPHA).mean():.2f}"))
    return "\n".join(lines)


def by_theory_row(seeds: Sequence[int], every_row: bool) -> str:
    """False alarms of the tabular setting's primary rows, by resampling fresh seeds: 20 expected and 20 fresh ones."""
    rows = [row for row in load_expected(expected_path("theory")).rows if row.primary]
    level = ALPHA / len(rows)
    names = ("row", "skewness", "t of the file's spread alone", "now", "now, with the file as it is")
    lines = [head(*names), line(f"level of a row: {level:.5f}", "", "", "", "")]
    for row in rows:
        measure = MEASURES[row.task, row.metric, row.method]
        if measure.slow and not every_row:
            continue
        values = measure(seeds[:SLOW_SEEDS] if measure.slow else seeds)
        scores = np.random.default_rng(0).choice(values, (FAMILIES, 40))
        expected, fresh = scores[:, :20], scores[:, 20:]
        difference = np.abs(fresh.mean(axis=1) - expected.mean(axis=1))
        before = difference > stdtrit(19, 1 - level / 2) * expected.std(axis=1, ddof=1) * np.sqrt(2 / 20)
        rates = (
            before.mean(),
            rejected(expected, fresh, level, skewness_stated(row)).mean(),
            rejected_by_row(row, fresh, level).mean(),
        )
        lines.append(line(f"{row.key}", f"{skewness_of(values):.1f}", *(f"{rate:.5f}" for rate in rates)))
    return "\n".join(lines)


def rejected(expected: Array, fresh: Array, level: float, skewness: float = 0.0) -> Array:
    """Which families fail a row: the three tests of `trust/statistics.py` at once.

    Args:
        expected: [families, K].
        fresh: [families, k].
        level: of the row.
        skewness: that the row states; 0 if it states none.
    """
    return rejected_at(expected.mean(axis=1), expected.std(axis=1, ddof=1), expected.shape[1], fresh, level, skewness)


def rejected_by_row(row: ExpectedRow, fresh: Array, level: float) -> Array:
    """Which fresh families fail a row of a file."""
    value, sd, seeds = float(row.value or 0), float(row.sd or 0), int(row.seeds or 0)  # a measured row has all three
    return rejected_at(np.full(len(fresh), value), np.full(len(fresh), sd), seeds, fresh, level, skewness_stated(row))


def skewness_stated(row: ExpectedRow) -> float:
    """The skewness that a row states; 0 if it states none."""
    return row.skewness.value if row.skewness else 0.0


def rejected_at(mean: Array, sd: Array, seeds: int, fresh: Array, level: float, skewness: float) -> Array:
    """Which families fail, given mean and standard deviation of K expected seeds."""
    runs = fresh.shape[1]
    difference, df = np.abs(fresh.mean(axis=1) - mean), seeds + runs - 2
    spread = fresh.std(axis=1, ddof=1) if runs > 1 else np.zeros(len(fresh))
    pooled = np.sqrt(((seeds - 1) * sd**2 + (runs - 1) * spread**2) / df)
    share = MEAN_SHARE if runs > 1 else 1.0
    quantile = float(stdtrit(df, 1 - share * level / 2))
    if skewness >= SMALL_SKEWNESS:
        quantile = max(quantile, mean_quantile(seeds - 1, seeds, runs, share * level, skewness))
    failed = difference > quantile * pooled * np.sqrt(1 / runs + 1 / seeds)
    if runs > 1:
        skewness = max(SKEWNESS, skewness)
        furthest = np.abs(fresh - mean[:, None]).max(axis=1)
        one = furthest_run_quantile(seeds - 1, seeds, runs, RUNS_SHARE * level, skewness) * sd * np.sqrt(1 + 1 / seeds)
        failed |= (furthest > one) | (spread > spread_quantile(seeds - 1, seeds, runs, SPREAD_SHARE * level, skewness) * sd)
    return failed


def pearson(rng: np.random.Generator, skewness: float, shape: tuple[int, int]) -> Array:
    """Scores with this skewness: normal, or of a shifted gamma distribution (Pearson's type III)."""
    if not skewness:
        return rng.normal(size=shape)
    return rng.standard_gamma(4 / skewness**2, shape)


def skewness_of(values: Array) -> float:
    """The third standardized moment."""
    return float(np.mean((values - values.mean()) ** 3) / values.std() ** 3)


# The primary rows of the tabular setting, as theory/experiments.py measures them


class Measure:
    """How a primary row is measured on seeds."""

    def __init__(self, function: Callable[[Sequence[int]], Array], slow: bool = False) -> None:
        self.function, self.slow = function, slow

    def __call__(self, seeds: Sequence[int]) -> Array:
        """Values [seeds]."""
        return self.function(seeds)


def suboptimality(instance: Instance, pairs: int, iterations: int, *, prescribed: bool = False) -> Measure:
    """SPAC-T's suboptimality; with η = 1 or the prescribed step size."""

    def measured(seeds: Sequence[int]) -> Array:
        batch = Batch([(instance, pairs, seed) for seed in seeds])
        eta = spac_t.prescribed_step_size(instance.kl_to_mu, instance.bound, iterations) if prescribed else 1.0
        return batch.suboptimality(batch.run_spac_t(step_size=eta, iterations=iterations).mixture)

    return Measure(measured)


def slope_of_samples(seeds: Sequence[int]) -> Array:
    """Each seed's slope over n, with T = n/10."""
    sizes = [300, 1000, 3000, 10_000]
    return log_log_slope(sizes, np.stack([suboptimality(shrinking_gap(n), n, n // 10, prescribed=True)(seeds) for n in sizes]))


def slope_of_rounds(seeds: Sequence[int], *, prescribed: bool) -> Array:
    """Each seed's slope over T, at n = 30,000."""
    horizons, instance = [10, 30, 100, 300, 1000], long_tail()
    if prescribed:
        values = [suboptimality(instance, 30_000, T, prescribed=True)(seeds) for T in horizons]
    else:
        batch = Batch([(instance, 30_000, seed) for seed in seeds])
        found = batch.run_spac_t(step_size=1.0, iterations=horizons[-1], checkpoints=horizons).checkpoints
        values = [batch.suboptimality(found[T]) for T in horizons]
    return log_log_slope(horizons, np.stack(values))


def practical(config: LossConfig) -> Measure:
    """The reward of a softmax policy after four iterations."""
    return Measure(
        lambda seeds: train_softmax_policies(many_prompts(), config, pairs=2000, seeds=list(seeds), iterations=4)[-1], True
    )


MEASURES = {
    ("prototype", "suboptimality n=1000", "spac-t"): suboptimality(long_tail(), 1000, 200),
    ("samples", "slope gap 2/√n x=300…10000", "spac-t"): Measure(slope_of_samples, True),
    ("samples", "suboptimality gap 2/√n n=1000", "spac-t"): suboptimality(shrinking_gap(1000), 1000, 100, prescribed=True),
    ("samples", "suboptimality gap 0.4 n=1000", "spac-t"): suboptimality(long_tail(), 1000, 100, prescribed=True),
    ("rounds", "slope prescribed x=10…1000", "spac-t"): Measure(lambda seeds: slope_of_rounds(seeds, prescribed=True), True),
    ("rounds", "slope η = 1 x=10…1000", "spac-t"): Measure(lambda seeds: slope_of_rounds(seeds, prescribed=False), True),
    ("coverage", "suboptimality 200 poor, 0.5 of μ, n=300", "spac-t"): suboptimality(long_tail(poor=200, poor_mass=0.5), 300, 100),
    ("loose", "suboptimality R=2×range, n=300", "spac-t"): suboptimality(long_tail(slack=2.0), 300, 100),
    ("loose", "suboptimality R=4×range, n=300", "spac-t"): suboptimality(long_tail(slack=4.0), 300, 100),
    ("baseline", "reward after iteration 4", "smoothed, baseline both"): practical(LossConfig("spac")),
    ("baseline", "reward after iteration 4", "smoothed, no baseline"): practical(LossConfig("spac", critic_baseline="none")),
}


# Markdown


def head(*names: object) -> str:
    """The head of a table."""
    return f"{line(*names)}\n{'| --- ' * len(names)}|"


def line(*cells: object) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
