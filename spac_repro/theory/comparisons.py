"""Preference data as graphs: responses are nodes, compared pairs are edges, and many graphs lie end to end.

A *problem* is one prompt of one run (an instance, a number of pairs, a seed). Problems share no edge, so that one sparse
linear system serves all of them at once: that is the batching over seeds, prompts and settings.
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
class Comparisons:
    """P problems, N nodes (all responses of all problems, in order) and E edges (each compared pair once, i < j).

    first      [P + 1] where each problem's nodes begin
    run        [P] which run a problem belongs to; `share` [P] the share of the run's pairs that its prompt has
    pairs      [P] pairs of the problem's whole run (n)
    seen       [N] how often a response occurs (a pair counts twice)
    left,right [E] nodes of an edge; `wins`, `losses` [E] how often the left one won and lost
    """

    first: Index
    run: Index
    share: Array
    pairs: Index
    seen: Array
    left: Index
    right: Index
    wins: Array
    losses: Array

    @cached_property
    def problem(self) -> Index:
        """[N] the problem of each node."""
        return np.repeat(np.arange(len(self.run)), np.diff(self.first))

    @cached_property
    def empirical(self) -> Array:
        """μ̂ [N]: the share of a problem's responses; zero throughout a prompt that never occurred."""
        return self.seen / np.maximum(self.total(self.seen), 1.0)[self.problem]

    def total(self, values: Array) -> Array:
        """Sums over the nodes of each problem: [N] → [P]."""
        return np.add.reduceat(values, self.first[:-1])

    def gather(self, at_left: Array, at_right: Array) -> Array:
        """Sums over the edges of each node, of one value at an edge's left node and another at its right: [E], [E] → [N]."""
        size = len(self.seen)
        sums = np.bincount(self.left, at_left, size) + np.bincount(self.right, at_right, size)
        return np.asarray(sums, dtype=np.float64)

    def keep(self, problems: NDArray[np.bool_]) -> Comparisons:
        """Only the problems marked, renumbered from 0 (runs keep their numbers)."""
        nodes = problems[self.problem]
        edges = nodes[self.left]
        number = np.cumsum(nodes) - 1
        sizes = np.diff(self.first)[problems]
        return Comparisons(
            np.concatenate([[0], np.cumsum(sizes)]), self.run[problems], self.share[problems], self.pairs[problems],
            self.seen[nodes], number[self.left[edges]], number[self.right[edges]], self.wins[edges], self.losses[edges],
        )  # fmt: skip


def sample(instance: Instance, pairs: int, seed: int) -> tuple[Index, Index, Index]:
    """`pairs` preferences as (prompt, chosen, rejected), each [pairs]: x from the prompts, y and y′ from μ, labels by
    Bradley–Terry. A function of (instance, pairs, seed)."""
    if pairs < 1:
        raise UserError(f"pairs: is {pairs}; at least one preference pair is needed")
    if seed < 0:
        raise UserError(f"seed: is {seed}; give a number from 0")
    random = np.random.default_rng([seed, pairs])
    x = random.choice(instance.shape[0], size=pairs, p=instance.prompts)
    cumulative = np.cumsum(instance.data, axis=1)
    cumulative /= cumulative[:, -1:]
    y = (random.random((2, pairs, 1)) >= cumulative[x]).sum(axis=-1)
    advantage = instance.scale * (instance.reward[x, y[0]] - instance.reward[x, y[1]])
    won = random.random(pairs) < 1 / (1 + np.exp(-advantage))
    return x, np.where(won, y[0], y[1]), np.where(won, y[1], y[0])


def draw(instance: Instance, pairs: int, seed: int) -> Comparisons:
    """The graphs of `sample`'s preferences."""
    return graphs(*sample(instance, pairs, seed), instance.shape)


def graphs(x: Index, chosen: Index, rejected: Index, shape: tuple[int, int]) -> Comparisons:
    """One run's triples (prompt, chosen, rejected), each [n], as graphs over `shape` = (prompts, responses)."""
    X, Y = shape
    pairs = len(x)
    if not (len(chosen) == len(rejected) == pairs > 0):
        counts = f"{pairs} prompts, {len(chosen)} chosen, {len(rejected)} rejected"
        raise UserError(f"pairs: {counts}; give equally many, at least one")
    for name, values, limit in (("prompt", x, X), ("chosen", chosen, Y), ("rejected", rejected, Y)):
        if min(values) < 0 or max(values) >= limit:
            raise UserError(f"{name}: holds an index outside 0…{limit - 1}; check the shape {shape}")
    a, b = x * Y + chosen, x * Y + rejected
    seen = np.bincount(a, minlength=X * Y) + np.bincount(b, minlength=X * Y)
    low, high, won = np.minimum(a, b), np.maximum(a, b), a < b
    # A response compared with itself tells about μ̂ and n but nothing about the reward: no edge.
    edges, place = np.unique((low * X * Y + high)[low != high], return_inverse=True)
    won = won[low != high]
    return Comparisons(
        first=np.arange(X + 1) * Y,
        run=np.zeros(X, dtype=np.int64),
        share=np.bincount(x, minlength=X) / pairs,
        pairs=np.full(X, pairs),
        seen=seen.astype(np.float64),
        left=edges // (X * Y),
        right=edges % (X * Y),
        wins=np.bincount(place, weights=won, minlength=len(edges)).astype(np.float64),
        losses=np.bincount(place, weights=~won, minlength=len(edges)).astype(np.float64),
    )


def stack(runs: Sequence[Comparisons]) -> Comparisons:
    """Several runs end to end, numbered 0, 1, … in order."""
    if not runs:
        raise UserError("runs: none given; at least one is needed")
    nodes = np.cumsum([0] + [len(run.seen) for run in runs])
    return Comparisons(
        first=np.concatenate([[0], *(run.first[1:] + offset for run, offset in zip(runs, nodes, strict=False))]),
        run=np.concatenate([np.full(len(run.run), number) for number, run in enumerate(runs)]),
        left=np.concatenate([run.left + offset for run, offset in zip(runs, nodes, strict=False)]),
        right=np.concatenate([run.right + offset for run, offset in zip(runs, nodes, strict=False)]),
        **{name: np.concatenate([getattr(run, name) for run in runs]) for name in ("share", "pairs", "seen", "wins", "losses")},
    )
