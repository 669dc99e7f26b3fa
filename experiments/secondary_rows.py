"""Simulate how often a secondary row disagrees with an honest run, and with a wrong one: `python experiments/secondary_rows.py`.

Each family has the rows of one method of `tiny`: four iterates with eight scores of its own and eight of a leaderboard. Ten seeds
are in the file, and one run is verified by `trust.verification`. The start policy's scores on one task lie around one of two
values; every later iterate keeps what its start has. Units are standard deviations within a hump.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from expected import gain_over

from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected import START, ExpectedResults, Measured, measured_rows
from spac_repro.trust.expected_parts import Hump, Humps
from spac_repro.trust.verification import verify

Array = np.ndarray[Any, np.dtype[np.float64]]

FAMILIES, WRONG_FAMILIES, SEEDS, ITERATES, OWN, LEADERBOARD = 1000, 200, 10, 4, 8, 8
SCORES = OWN + LEADERBOARD
TWO_HUMPED = (OWN, OWN + 1)  # two metrics of one task, as mini_mmlu has
GAIN_SD = 0.5  # of a later iterate over its start
ALPHA = 0.01
RULES = ("each row at α", "family", "family, gains", "family, gains, humps")
SOURCE = Measured(
    kind="measured",
    commit="simulated",
    lock_sha256="",
    hardware="",
    date="2026-11-26",
    seeds=tuple(range(1, SEEDS + 1)),
    command="simulated",
)


def runs(rng: np.random.Generator, count: int, weight: float, apart: float, gain_sd: float = GAIN_SD) -> Array:
    """Scores of honest runs [count, iterates, scores]; `weight` is the share of starts in the upper hump."""
    found = np.empty((count, ITERATES, SCORES))
    of_run = rng.normal(size=(count, 1, OWN))
    found[:, :, :OWN] = np.sqrt(0.5) * (of_run + rng.normal(size=(count, ITERATES, OWN)))  # iterates of a run are alike
    start = rng.normal(size=(count, LEADERBOARD))
    start[:, : len(TWO_HUMPED)] += apart * (rng.random((count, 1)) < weight)
    found[:, 0, OWN:] = start
    found[:, 1:, OWN:] = start[:, None] + gain_sd * rng.normal(size=(count, ITERATES - 1, LEADERBOARD))
    return found


def key(iterate: int, score: int) -> ScoreKey:
    """The name of a simulated score."""
    return ScoreKey("spac" if iterate else START, f"task{score}", "m", iterate)


def disagreements(file: Array, fresh: Array, rule: str, humps: Sequence[float]) -> int:
    """How many secondary rows disagree with a run.

    Args:
        file: [seeds, iterates, scores] the runs of the file.
        fresh: [iterates, scores] the run.
        rule: one of `RULES`.
        humps: what the file states of the two-humped start scores: a value, from one other run, for each of them.
    """
    rows = []
    for iterate in range(ITERATES):
        for score in range(SCORES):
            name = key(iterate, score)
            primary = iterate == ITERATES - 1 and score < 2  # gold reward and margin, which have a family of their own
            (row,) = measured_rows({name: file[:, iterate, score].tolist()}, "ours", primary=lambda _, p=primary: p)
            update: dict[str, Any] = {}
            if "gains" in rule and iterate and score >= OWN:
                update["gain"] = gain_over(
                    file[:, 0, score].tolist(), file[:, iterate, score].tolist(), always="humps" in rule and score in TWO_HUMPED
                )
            if "humps" in rule and iterate == 0 and score in TWO_HUMPED:
                stated = Hump(value=humps[TWO_HUMPED.index(score)], runs=1)
                update["humps"] = Humps(others=(stated,), argument="simulated")
            rows.append(row.model_copy(update=update))
    secondary = sum(not row.primary for row in rows)
    alpha = ALPHA * secondary if rule == RULES[0] else ALPHA
    expected = ExpectedResults(recipe="tiny", alpha=alpha, sources={"ours": SOURCE}, rows=tuple(rows))
    values = {key(t, s): [float(fresh[t, s])] for t in range(ITERATES) for s in range(SCORES)}
    starts = {key(t, s): [float(fresh[0, s])] for t in range(1, ITERATES) for s in range(SCORES)}
    return sum(not row.agrees for row in verify(expected, values, starts=starts).comparisons if not row.primary)


def rate(
    weight: float,
    apart: float,
    rule: str,
    *,
    gain_sd: float = GAIN_SD,
    fault: Callable[[Array], None] = lambda run: None,
    families: int = FAMILIES,
) -> float:
    """The share of families in which a secondary row disagrees with the run.

    Args:
        weight: the share of starts in the upper hump.
        apart: distance of the humps.
        rule: one of `RULES`.
        gain_sd: standard deviation of a later iterate's leaderboard score over its start's.
        fault: changes the run [iterates, scores] in place; by default it is honest.
        families: number of them.
    """
    rng = np.random.default_rng(17)
    found = 0
    for _ in range(families):
        *file, fresh = runs(rng, SEEDS + 1, weight, apart, gain_sd)
        humps = (apart + rng.normal(size=len(TWO_HUMPED))).tolist()
        fault(fresh)
        found += disagreements(np.array(file), fresh, rule, humps) > 0
    return found / families


def worse_after_training(sds: float) -> Callable[[Array], None]:
    """A fault: training costs so many standard deviations of the gain more on one task than it should."""

    def change(run: Array) -> None:
        run[1:, SCORES - 1] -= sds * GAIN_SD

    return change


def other_method(sds: float) -> Callable[[Array], None]:
    """A fault: the trained iterates are so many standard deviations off in one score of the method's own."""

    def change(run: Array) -> None:
        run[1:, 2] += sds

    return change


FAULTS: Mapping[str, Callable[[float], Callable[[Array], None]]] = {
    "training costs more on one task": worse_after_training,
    "one score of its own is off": other_method,
}


def main() -> None:
    """Print the table of honest runs and that of wrong ones."""
    print(f"| starts in the upper hump | apart | gain varies by | {' | '.join(RULES)} |\n|{' --- |' * (3 + len(RULES))}")
    for weight, apart, gain_sd in ((0.0, 0.0, 0.5), (0.0, 0.0, 1.0), (0.09, 5.0, 0.5), (0.09, 10.0, 0.5), (0.5, 10.0, 0.5)):
        rates = [f"{rate(weight, apart, rule, gain_sd=gain_sd):.3f}" for rule in RULES]
        print(f"| {weight:.2f} | {apart:g} | {gain_sd:g} | {' | '.join(rates)} |", flush=True)
    print(f"\n| fault | by | {' | '.join(RULES[:3])} |\n|{' --- |' * 5}")
    for name, fault in FAULTS.items():
        for sds in (6.0, 10.0, 14.0):
            rates = [f"{rate(0.0, 0.0, rule, fault=fault(sds), families=WRONG_FAMILIES):.2f}" for rule in RULES[:3]]
            print(f"| {name} | {sds:g} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
