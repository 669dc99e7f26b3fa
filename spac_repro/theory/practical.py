"""The practical form on softmax policies: the losses that the language models are trained with, where J(π) is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spac_repro import objectives
from spac_repro.errors import UserError
from spac_repro.theory.comparisons import sample
from spac_repro.theory.instances import Array, Instance


@dataclass(frozen=True)
class Method:
    """A loss and its settings; `reference` is the iterate that ρ is measured against."""

    loss: Literal["spac", "dpo", "ipo", "spin"]
    beta: float = 1.0
    preference_weight: float = 10.0
    critic: objectives.Critic = "smoothed"
    baseline: objectives.Baseline = "both"
    reference: Literal["previous", "start"] = "previous"
    selfplay: Literal["sampled", "exact"] = "sampled"


def improve(
    instance: Instance, method: Method, *, pairs: int, seeds: list[int], iterations: int = 4, steps: int = 150, rate: float = 0.05
) -> Array:
    """J after each iteration [iterations + 1, seeds], the first being the start π_1 = μ.

    Adam with a fixed rate for a fixed number of full-batch steps an iteration: the linear critic term has no minimum, so that
    every result holds after these steps of this optimiser. y′: one response for each pair, drawn anew at each
    iteration from π_t, or the expectation over π_t ("exact"). A seed's result does not depend on the seeds beside it.
    """
    if not seeds:
        raise UserError("seeds: none given; at least one is needed")
    triples = [sample(instance, pairs, seed) for seed in seeds]
    x, chosen, rejected = (torch.tensor(np.stack(column)) for column in zip(*triples, strict=True))
    start = torch.tensor(np.log(np.maximum(instance.data, 1e-300))).expand(len(seeds), -1, -1)
    logits = start.clone().requires_grad_()
    values = [instance.value(start.exp().numpy())]
    run = torch.arange(len(seeds))[:, None]
    for iteration in range(iterations):
        previous = torch.log_softmax(logits.detach(), dim=-1)
        reference = previous if method.reference == "previous" else start
        loss = _loss(method, run, x, chosen, rejected, previous, seeds, iteration)
        optimiser = torch.optim.Adam([logits], lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(torch.log_softmax(logits, dim=-1) - reference).mean(dim=1).sum().backward()
            optimiser.step()
        values.append(instance.value(torch.softmax(logits.detach(), dim=-1).numpy()))
    return np.stack(values)


def _loss(
    method: Method, run: Tensor, x: Tensor, chosen: Tensor, rejected: Tensor, policy: Tensor, seeds: list[int], iteration: int
) -> Callable[[Tensor], Tensor]:
    """The method's loss [seeds, n] as a function of ρ [seeds, X, Y]."""
    if method.loss == "dpo":
        return lambda rho: objectives.dpo(rho[run, x, chosen], rho[run, x, rejected], beta=method.beta)
    if method.loss == "ipo":
        return lambda rho: objectives.ipo(rho[run, x, chosen], rho[run, x, rejected], beta=method.beta)
    if method.selfplay == "exact":
        weight = policy.exp()[run, x]

        def expected(rho: Tensor) -> Tensor:
            terms = _adversarial(method, rho[run, x, chosen][..., None], rho[run, x, rejected][..., None], rho[run, x])
            return (weight * terms).sum(dim=-1)

        return expected
    uniform = torch.tensor(np.stack([np.random.default_rng([seed, iteration, 1]).random(x.shape[1]) for seed in seeds]))
    cumulative = policy.exp().cumsum(dim=-1)[run, x]
    said = (uniform[..., None] * cumulative[..., -1:] >= cumulative).sum(dim=-1)
    return lambda rho: _adversarial(method, rho[run, x, chosen], rho[run, x, rejected], rho[run, x, said])


def _adversarial(method: Method, chosen: Tensor, rejected: Tensor, selfplay: Tensor) -> Tensor:
    if method.loss == "spin":
        return objectives.spin(chosen, selfplay, beta=method.beta)
    return objectives.spac(
        chosen, rejected, selfplay, beta=method.beta, preference_weight=method.preference_weight, critic=method.critic,
        baseline=method.baseline,
    )  # fmt: skip
