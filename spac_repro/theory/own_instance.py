"""`spac-repro theory --instance FILE.yaml`: SPAC-T and its rivals on a bandit of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from spac_repro.documents import yaml_subset
from spac_repro.documents.base_model import Fraction, NonNegativeFloat, Settings
from spac_repro.documents.location import Source
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.theory.instances import Array, Instance
from spac_repro.theory.result import ExperimentResult, setting_text
from spac_repro.theory.vectorized import LAMBDA_SCALE, Batch, away_from_best, best_setting

ITERATIONS = 100  # T, with η = 1, as in most experiments
LARGEST = 2000  # responses to a prompt: the width of pointwise pessimism takes a dense matrix of this size

EXAMPLE = """reward: [[1.0, 0.6, 0.3]]
mu: [[0.3, 0.5, 0.2]]
scale: 3
n: [100, 1000]
"""


class InstanceFile(Settings):
    """A bandit with a known reward, and the numbers of preference pairs to try.

    Attributes:
        reward: For each prompt, the true reward of each response, in [0, 1].
        mu: For each prompt, the probability that the data's responses are this one.
        n: The numbers of preference pairs.
        scale: P(y ≻ y′) = σ(scale · (reward(y) − reward(y′))).
        prompts: The probability of each prompt; without it all are equal.
        slack: R = slack · scale is the bound that the methods are told.
    """

    reward: Annotated[list[Annotated[list[Fraction], Field(min_length=2, max_length=LARGEST)]], Field(min_length=1)]
    mu: list[list[NonNegativeFloat]]
    n: Annotated[list[Annotated[int, Field(ge=1, le=1_000_000)]], Field(min_length=1)]
    scale: Annotated[float, Field(ge=0.01, le=100)] = 3.0
    prompts: list[NonNegativeFloat] | None = None
    slack: Annotated[float, Field(ge=1, le=100)] = 1.0

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            UserError: The file is missing or not valid, with its first problem.
        """
        document = yaml_subset.read(path, missing_file_remedy="name a YAML file with the keys reward, mu, scale and n")
        file = validate(cls, document.value, document, missing_key_remedy=f"such a file is: {'; '.join(EXAMPLE.splitlines())}")
        _check_shapes(file, document)
        return file

    def instance(self) -> Instance:
        """Return the instance, with probabilities that sum to 1 exactly."""
        mu = np.array(self.mu)
        prompts = np.ones(len(mu)) if self.prompts is None else np.array(self.prompts)
        return Instance(np.array(self.reward), mu / mu.sum(axis=1, keepdims=True), prompts / prompts.sum(), self.scale, self.slack)


def _check_shapes(file: InstanceFile, source: Source) -> None:
    """Check what one value says about another."""
    for key, rows in (("reward", file.reward), ("mu", file.mu)):
        if len(rows) != len(file.reward):
            raise source.error((key,), f"has {len(rows)} prompts and reward has {len(file.reward)}", "give both the same")
        for k, row in enumerate(rows):
            if len(row) != len(file.reward[0]):
                problem = f"has {len(row)} responses, and the first prompt of reward has {len(file.reward[0])}"
                raise source.error((key, k), problem, "give every prompt as many; a response that it lacks has mu 0")
    for k, row in enumerate(file.mu):
        if abs(sum(row) - 1) > 1e-6:
            raise source.error(("mu", k), f"sums to {sum(row):g}, not 1", "give the probabilities of the responses")
    if file.prompts is not None and len(file.prompts) != len(file.reward):
        problem = f"has {len(file.prompts)} prompts and reward has {len(file.reward)}"
        raise source.error(("prompts",), problem, "give one probability for each, or leave the key out")
    if file.prompts is not None and abs(sum(file.prompts) - 1) > 1e-6:
        raise source.error(("prompts",), f"sums to {sum(file.prompts):g}, not 1", "give the probabilities of the prompts")
    if len(set(file.n)) < len(file.n):
        raise source.error(("n",), "names a number twice", "name each once")


def compare_on_instance(file: InstanceFile, seeds: list[int], quick: bool, advance: Callable[[int, int], None]) -> ExperimentResult:
    """Compare SPAC-T and its rivals on an instance, for every number of pairs.

    Args:
        file: The instance.
        seeds: Seeds of the preferences.
        quick: Not used: the file says how much is run.
        advance: Told how many of its parts are done: SPAC-T and the rivals at each number of pairs.
    """
    instance, sizes = file.instance(), sorted(file.n)
    settings = {"n": sizes, "T": ITERATIONS, "η": 1.0, "λ/√n": LAMBDA_SCALE, "scale": file.scale, "R": instance.bound}
    result = ExperimentResult("instance", seeds, settings)
    ours: list[Array] = []
    grids: list[dict[str, dict[Any, Array]]] = []
    for number, n in enumerate(sizes):
        batch = Batch([(instance, n, seed) for seed in seeds])
        ours.append(batch.suboptimality(batch.run_spac_t(iterations=ITERATIONS).mixture))
        advance(2 * number + 1, 2 * len(sizes))
        grids.append(batch.rivals())
        advance(2 * number + 2, 2 * len(sizes))
    values = np.stack(ours)
    result.add_curve("SPAC-T", "", sizes, values)
    rivals, shape = {}, (len(sizes), len(seeds))
    for name in grids[0]:
        joint = {setting: np.concatenate([grid[name][setting] for grid in grids]) for setting in grids[0][name]}
        rivals[name], setting = best_setting(joint, shape)
        result.add_curve(name, "", sizes, rivals[name], setting, away_from_best(joint, shape, setting))
    result.add_paired_tests("", sizes, values, rivals)
    result.findings += [
        f"the reward of μ is {float(instance.value(instance.mu)):.4f}, of the best policy "
        f"{float(instance.value(instance.comparator)):.4f}",
        f"C_∞ is {instance.concentrability:.3g}, √(½χ²) is {instance.paired_concentrability:.3g}"
        + ("; μ does not cover the best policy, so no method has a guarantee" if np.isinf(instance.concentrability) else ""),
    ]
    return result


def short_table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table for the terminal: the method, and at each n the mean suboptimality and its setting."""
    rows = [("method", *(f"n = {x:g}" for x in result["curves"][0]["x"]))]
    for curve in result["curves"]:
        settings = curve["parameter"] or [None] * len(curve["x"])
        means = [f"{np.mean(values):.4f}" for values in curve["values"]]
        chosen = ["" if setting is None else f" ({setting_text(setting)})" for setting in settings]
        rows.append((curve["method"], *(mean + text for mean, text in zip(means, chosen, strict=True))))
    return rows


def refuse_other_choices(experiments: Any, quick: bool) -> None:
    """Refuse options that choose among the package's experiments.

    Raises:
        UserError: One was given.
    """
    if experiments or quick:
        raise UserError("--instance: takes its sizes from its file; leave out --experiment and --quick")
