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
    instance: Instance,
    method: Method,
    *,
    pairs: int,
    seeds: list[int],
    iterations: int = 4,
    steps: int = 150,
    rate: float = 0.05,
) -> Array:
    """J after each iteration [iterations + 1, seeds], the first being the start π_1 = μ.

    Adam with a fixed rate for a fixed number of full-batch steps an iteration: the linear critic term has no minimum, so that
    every result holds after these steps of this optimiser. y′: one response for each pair, drawn anew at each
    iteration from π_t, or the expectation over π_t ("exact"). A seed's result does not depend on the seeds beside it.
    """
    if not seeds:
        raise UserError("seeds: none given; at least one is needed")
    columns = zip(*(sample(instance, pairs, seed) for seed in seeds), strict=True)
    data = Triples(instance.shape[1], *(torch.tensor(np.stack(column)) for column in columns))
    start = torch.tensor(np.log(np.maximum(instance.data, 1e-300))).expand(len(seeds), -1, -1)
    logits = start.clone().requires_grad_()
    values = [instance.value(start.exp().numpy())]
    for iteration in range(iterations):
        previous = torch.log_softmax(logits.detach(), dim=-1)
        reference = previous if method.reference == "previous" else start
        loss = loss_of(method, data, previous, seeds, iteration)
        optimiser = torch.optim.Adam([logits], lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(torch.log_softmax(logits, dim=-1) - reference).mean(dim=1).sum().backward()
            optimiser.step()
        values.append(instance.value(torch.softmax(logits.detach(), dim=-1).numpy()))
    return np.stack(values)


@dataclass(frozen=True)
class Triples:
    """Y, and prompts, chosen and rejected responses as indices [seeds, n]."""

    responses: int
    prompts: Tensor
    chosen: Tensor
    rejected: Tensor

    def at(self, values: Tensor, responses: Tensor) -> Tensor:
        """values [seeds, X, Y] at these responses [seeds, n] of the prompts: [seeds, n]."""
        return values.flatten(1).gather(1, self.prompts * self.responses + responses)


def loss_of(method: Method, data: Triples, policy: Tensor, seeds: list[int], iteration: int) -> Callable[[Tensor], Tensor]:
    """The loss as a function of ρ [seeds, X, Y]: [seeds, n], to be averaged over n ("exact": [seeds, 1]).

    `policy` is log π_t [seeds, X, Y], which y′ comes from.
    """
    if method.loss in ("dpo", "ipo"):
        plain = objectives.dpo if method.loss == "dpo" else objectives.ipo
        return lambda rho: plain(data.at(rho, data.chosen), data.at(rho, data.rejected), beta=method.beta)
    if method.selfplay == "exact":
        return _expected(method, data, policy)
    said = _sampled(data, policy, seeds, iteration)

    def adversarial(rho: Tensor) -> Tensor:
        chosen, rejected, selfplay = (data.at(rho, responses) for responses in (data.chosen, data.rejected, said))
        if method.loss == "spin":
            return objectives.spin(chosen, selfplay, beta=method.beta)
        return objectives.spac(
            chosen, rejected, selfplay, beta=method.beta, preference_weight=method.preference_weight, critic=method.critic,
            baseline=method.baseline,
        )  # fmt: skip

    return adversarial


def _sampled(data: Triples, policy: Tensor, seeds: list[int], iteration: int) -> Tensor:
    """y′ ~ π_t(·|x) [seeds, n], one for each pair."""
    n = data.prompts.shape[1]
    uniform = torch.tensor(np.stack([np.random.default_rng([seed, iteration, 1]).random(n) for seed in seeds]))
    cumulative = policy.exp().cumsum(dim=-1)[torch.arange(len(seeds))[:, None], data.prompts]
    return (uniform[..., None] * cumulative[..., -1:] >= cumulative).sum(dim=-1)


def _expected(method: Method, data: Triples, policy: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss [seeds, 1] with y′ averaged over π_t: its critic term is a sum over baseline responses and π_t's responses."""
    if method.loss != "spac" or method.baseline == "none":
        raise UserError(f"selfplay exact: only for spac with a baseline, not {method.loss} with {method.baseline}; use sampled")
    stand = {"both": (data.chosen, data.rejected), "chosen": (data.chosen,), "rejected": (data.rejected,)}[method.baseline]
    share = torch.zeros_like(policy).flatten(1)
    for responses in stand:
        unit = torch.full(responses.shape, 1 / (len(stand) * responses.shape[1]), dtype=share.dtype)
        share.scatter_add_(1, data.prompts * data.responses + responses, unit)
    weight = share.view_as(policy)[..., :, None] * policy.exp()[..., None, :]

    def expected(rho: Tensor) -> Tensor:
        seen, said = rho[..., :, None], rho[..., None, :]
        critic = objectives.spac(seen, seen, said, beta=method.beta, preference_weight=0.0, critic=method.critic, baseline="chosen")
        preference = objectives.dpo(data.at(rho, data.chosen), data.at(rho, data.rejected), beta=method.beta).mean(dim=1)
        return (method.preference_weight * preference + (weight * critic).sum(dim=(1, 2, 3)))[:, None]

    return expected
