"""Preference data as graphs: responses are nodes, compared pairs are edges, and many graphs are concatenated.

A *problem* is one prompt of one run (an instance, a number of pairs, a seed). Problems share no edge, so one sparse linear
system solves all of them at once. This is how seeds, prompts and settings are batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spac_repro.errors import UserError
from spac_repro.theory.instances import Array, Instance

Index = NDArray[np.int64]


@dataclass(frozen=True)
class PreferenceGraph:
    """P problems, N nodes (all responses of all problems, in order) and E edges (each compared pair once, i < j).

    Attributes:
        offsets: [P + 1] index of each problem's first node.
        run: [P] number of the run that a problem belongs to.
        prompt_share: [P] fraction of the run's pairs whose prompt is the problem's.
        pairs: [P] number of preference pairs n of the problem's whole run.
        counts: [N] occurrences of a response (a pair counts twice).
        left: [E] node i of an edge, in ascending order.
        right: [E] node j of an edge.
        wins: [E] how often i was preferred to j.
        losses: [E] how often j was preferred to i.
    """

    offsets: Index
    run: Index
    prompt_share: Array
    pairs: Index
    counts: Array
    left: Index
    right: Index
    wins: Array
    losses: Array

    @cached_property
    def problem(self) -> Index:
        """[N] index of the problem that each node belongs to."""
        return np.repeat(np.arange(len(self.run)), np.diff(self.offsets))

    @cached_property
    def empirical(self) -> Array:
        """μ̂ [N]: the empirical distribution of responses in each problem; all zero for a prompt without data."""
        return self.counts / np.maximum(self.problem_sums(self.counts), 1.0)[self.problem]

    def edges_of(self, problem: int) -> slice:
        """Return the range of one problem's edges."""
        return slice(*self._edge_offsets[problem : problem + 2])

    @cached_property
    def _edge_offsets(self) -> Index:
        return np.searchsorted(self.left, self.offsets)

    def problem_sums(self, values: Array) -> Array:
        """Sum `values` [N] over the nodes of each problem: [P]."""
        return np.add.reduceat(values, self.offsets[:-1])

    def node_sums(self, at_left: Array, at_right: Array) -> Array:
        """Sum over each node's edges: `at_left` [E] where it is the left node, `at_right` [E] where it is the right one: [N]."""
        size = len(self.counts)
        sums = np.bincount(self.left, at_left, size) + np.bincount(self.right, at_right, size)
        return np.asarray(sums, dtype=np.float64)

    def subset(self, problems: NDArray[np.bool_]) -> PreferenceGraph:
        """Select the problems where the mask [P] is true; nodes are renumbered from 0, runs keep their numbers."""
        nodes = problems[self.problem]
        edges = nodes[self.left]
        number = np.cumsum(nodes) - 1
        sizes = np.diff(self.offsets)[problems]
        return PreferenceGraph(
            np.concatenate([[0], np.cumsum(sizes)]), self.run[problems], self.prompt_share[problems], self.pairs[problems],
            self.counts[nodes], number[self.left[edges]], number[self.right[edges]], self.wins[edges], self.losses[edges],
        )  # fmt: skip


def sample_preferences(instance: Instance, pairs: int, seed: int) -> tuple[Index, Index, Index]:
    """Sample preference pairs: prompts from the instance, both responses from μ, labels by Bradley–Terry.

    Args:
        instance: The bandit instance.
        pairs: Number n of preference pairs.
        seed: Seed of the draw; the result is a function of (instance, pairs, seed).

    Returns:
        Indices of prompts, chosen and rejected responses, each [pairs].

    Raises:
        UserError: `pairs` is less than 1 or `seed` is negative.
    """
    if pairs < 1:
        raise UserError(f"pairs: is {pairs}; at least one preference pair is needed")
    if seed < 0:
        raise UserError(f"seed: is {seed}; give a number from 0")
    random = np.random.default_rng([seed, pairs])
    x = random.choice(instance.shape[0], size=pairs, p=instance.prompts)
    cumulative = np.cumsum(instance.mu, axis=1)
    cumulative /= cumulative[:, -1:]
    y = (random.random((2, pairs, 1)) >= cumulative[x]).sum(axis=-1)
    advantage = instance.scale * (instance.reward[x, y[0]] - instance.reward[x, y[1]])
    won = random.random(pairs) < 1 / (1 + np.exp(-advantage))
    return x, np.where(won, y[0], y[1]), np.where(won, y[1], y[0])


def sample_graph(instance: Instance, pairs: int, seed: int) -> PreferenceGraph:
    """Sample preferences as in `sample_preferences` and return their graph."""
    return build_graph(*sample_preferences(instance, pairs, seed), instance.shape)


def build_graph(x: Index, chosen: Index, rejected: Index, shape: tuple[int, int]) -> PreferenceGraph:
    """Build the graph of one run's preferences, one problem a prompt.

    Args:
        x: [n] prompt indices.
        chosen: [n] indices of the chosen responses.
        rejected: [n] indices of the rejected responses.
        shape: (number of prompts, number of responses a prompt).

    Raises:
        UserError: The arrays are empty or of different lengths, or an index is out of range.
    """
    X, Y = shape
    pairs = len(x)
    if not (len(chosen) == len(rejected) == pairs > 0):
        lengths = f"{pairs} prompts, {len(chosen)} chosen, {len(rejected)} rejected"
        raise UserError(f"pairs: {lengths}; give equally many, at least one")
    for name, values, limit in (("prompt", x, X), ("chosen", chosen, Y), ("rejected", rejected, Y)):
        if min(values) < 0 or max(values) >= limit:
            raise UserError(f"{name}: holds an index outside 0…{limit - 1}; check the shape {shape}")
    a, b = x * Y + chosen, x * Y + rejected
    counts = np.bincount(a, minlength=X * Y) + np.bincount(b, minlength=X * Y)
    low, high, won = np.minimum(a, b), np.maximum(a, b), a < b
    # A response compared with itself counts in μ̂ and n, but says nothing about the reward: it gets no edge.
    edges, place = np.unique((low * X * Y + high)[low != high], return_inverse=True)
    won = won[low != high]
    return PreferenceGraph(
        offsets=np.arange(X + 1) * Y,
        run=np.zeros(X, dtype=np.int64),
        prompt_share=np.bincount(x, minlength=X) / pairs,
        pairs=np.full(X, pairs),
        counts=counts.astype(np.float64),
        left=edges // (X * Y),
        right=edges % (X * Y),
        wins=np.bincount(place, weights=won, minlength=len(edges)).astype(np.float64),
        losses=np.bincount(place, weights=~won, minlength=len(edges)).astype(np.float64),
    )


def concatenate(runs: Sequence[PreferenceGraph]) -> PreferenceGraph:
    """Concatenate the graphs of several runs, numbered 0, 1, … in order.

    Raises:
        UserError: No run is given.
    """
    if not runs:
        raise UserError("runs: none given; at least one is needed")
    nodes = np.cumsum([0] + [len(run.counts) for run in runs])
    return PreferenceGraph(
        offsets=np.concatenate([[0], *(run.offsets[1:] + offset for run, offset in zip(runs, nodes, strict=False))]),
        run=np.concatenate([np.full(len(run.run), number) for number, run in enumerate(runs)]),
        left=np.concatenate([run.left + offset for run, offset in zip(runs, nodes, strict=False)]),
        right=np.concatenate([run.right + offset for run, offset in zip(runs, nodes, strict=False)]),
        **{
            name: np.concatenate([getattr(run, name) for run in runs])
            for name in ("prompt_share", "pairs", "counts", "wins", "losses")
        },
    )
