"""The practical losses on tabular softmax policies: the losses of `objectives.py`, where J(π) is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spac_repro import objectives
from spac_repro.errors import UserError
from spac_repro.theory.instances import Array, Instance
from spac_repro.theory.preference_graph import sample_preferences


@dataclass(frozen=True)
class LossConfig:
    """A loss and its settings, named as in the recipes; see `objectives.py`.

    Attributes:
        loss: Name of the loss.
        beta: β.
        preference_weight: λ, for SPAC.
        critic_loss: SPAC's critic term.
        critic_baseline: The data's responses that stand for E_μ f in SPAC's critic term.
        reward_bound: R_max, for χPO; None leaves its margins unclipped.
        sft_weight: η, for RPO.
        reference_policy: The policy that the log-ratios ρ are relative to.
        over_beta: Whether the loss is divided by β. Then Adam's ε, which a small gradient does not exceed, weighs alike for all β.
        selfplay: "sampled" draws one y′ a pair; "exact" takes the expectation over π_{t−1}.
    """

    loss: Literal["spac", "dpo", "ipo", "spin", "chipo", "rpo"]
    beta: float = 1.0
    preference_weight: float = 10.0
    critic_loss: objectives.CriticLoss = "smoothed"
    critic_baseline: objectives.CriticBaseline = "both"
    reward_bound: float | None = None
    sft_weight: float = 0.1
    reference_policy: Literal["previous", "start"] = "previous"
    over_beta: bool = False
    selfplay: Literal["sampled", "exact"] = "sampled"


def train_softmax_policies(
    instance: Instance,
    config: LossConfig,
    *,
    pairs: int,
    seeds: list[int],
    iterations: int = 4,
    steps: int = 150,
    learning_rate: float = 0.05,
) -> Array:
    """Train softmax policies from π_0 = μ by self-play, and return J after each iteration.

    Each iteration takes a fixed number of full-batch Adam steps. The linear critic term has no minimum, so every result holds for
    this optimizer and this number of steps only. A seed's result does not depend on the other seeds.

    Args:
        instance: The bandit instance.
        config: The loss.
        pairs: Number n of preference pairs a seed.
        seeds: Seeds of the preferences and of y′.
        iterations: Self-play iterations.
        steps: Adam steps an iteration.
        learning_rate: Adam's learning rate.

    Returns:
        J [iterations + 1, seeds]; the first row is that of μ.

    Raises:
        UserError: No seed is given, or the loss has no exact expectation.
    """
    if not seeds:
        raise UserError("seeds: none given; at least one is needed")
    columns = zip(*(sample_preferences(instance, pairs, seed) for seed in seeds), strict=True)
    data = PreferenceIndices(instance.shape[1], *(torch.tensor(np.stack(column)) for column in columns))
    start = torch.tensor(np.log(np.maximum(instance.mu, 1e-300))).expand(len(seeds), -1, -1)
    logits = start.clone().requires_grad_()
    values = [instance.value(start.exp().numpy())]
    for iteration in range(iterations):
        previous = torch.log_softmax(logits.detach(), dim=-1)
        reference = previous if config.reference_policy == "previous" else start
        loss = loss_function(config, data, previous, seeds, iteration)
        scale = config.beta if config.over_beta else 1.0
        optimizer = torch.optim.Adam([logits], lr=learning_rate)
        for _ in range(steps):
            optimizer.zero_grad()
            (loss(torch.log_softmax(logits, dim=-1) - reference).mean(dim=1).sum() / scale).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        values.append(instance.value(torch.softmax(logits.detach(), dim=-1).numpy()))
    return np.stack(values)


@dataclass(frozen=True)
class PreferenceIndices:
    """Preference pairs as indices.

    Attributes:
        responses: Number Y of responses to a prompt.
        prompts: [seeds, n] prompts.
        chosen: [seeds, n] chosen responses.
        rejected: [seeds, n] rejected responses.
    """

    responses: int
    prompts: Tensor
    chosen: Tensor
    rejected: Tensor

    def select(self, values: Tensor, responses: Tensor) -> Tensor:
        """Select `values` [seeds, X, Y] at these `responses` [seeds, n] to the prompts: [seeds, n]."""
        return values.flatten(1).gather(1, self.prompts * self.responses + responses)


def loss_function(
    config: LossConfig, data: PreferenceIndices, policy: Tensor, seeds: list[int], iteration: int
) -> Callable[[Tensor], Tensor]:
    """Return the loss as a function of ρ [seeds, X, Y]: losses [seeds, n], to be averaged over n ("exact": [seeds, 1]).

    Args:
        config: The loss.
        data: The preferences.
        policy: [seeds, X, Y] log π_{t−1}, from which y′ is sampled.
        seeds: Seeds of y′.
        iteration: Number of the self-play iteration, from 0; part of the seed of y′.

    Raises:
        UserError: The loss has no exact expectation.
    """
    pairwise_losses: dict[str, Callable[..., Tensor]] = {
        "dpo": objectives.dpo,
        "ipo": objectives.ipo,
        "chipo": partial(objectives.chipo, reward_bound=config.reward_bound),
        "rpo": partial(objectives.rpo, sft_weight=config.sft_weight),
    }
    if config.loss in pairwise_losses:
        pairwise_loss = pairwise_losses[config.loss]
        return lambda rho: pairwise_loss(data.select(rho, data.chosen), data.select(rho, data.rejected), beta=config.beta)
    if config.selfplay == "exact":
        return _expected_loss(config, data, policy)
    selfplay_responses = _sample_selfplay(data, policy, seeds, iteration)

    def adversarial(rho: Tensor) -> Tensor:
        chosen, rejected, selfplay = (data.select(rho, responses) for responses in (data.chosen, data.rejected, selfplay_responses))
        if config.loss == "spin":
            return objectives.spin(chosen, selfplay, beta=config.beta)
        return objectives.spac(
            chosen,
            rejected,
            selfplay,
            beta=config.beta,
            preference_weight=config.preference_weight,
            critic_loss=config.critic_loss,
            critic_baseline=config.critic_baseline,
        )

    return adversarial


def _sample_selfplay(data: PreferenceIndices, policy: Tensor, seeds: list[int], iteration: int) -> Tensor:
    """Sample y′ ~ π_{t−1}(·|x), one for each pair: [seeds, n]."""
    n = data.prompts.shape[1]
    uniform = torch.tensor(np.stack([np.random.default_rng([seed, iteration, 1]).random(n) for seed in seeds]))
    cumulative = policy.exp().cumsum(dim=-1)[torch.arange(len(seeds))[:, None], data.prompts]
    return (uniform[..., None] * cumulative[..., -1:] >= cumulative).sum(dim=-1)


def _expected_loss(config: LossConfig, data: PreferenceIndices, policy: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the expectation of SPAC's loss over y′ ~ π_{t−1}, as a function of ρ: [seeds, 1]."""
    if config.loss != "spac" or config.critic_baseline == "none":
        raise UserError(
            f"selfplay exact: only for spac with a baseline, not {config.loss} with {config.critic_baseline}; use sampled"
        )
    baseline_responses = {"both": (data.chosen, data.rejected), "chosen": (data.chosen,), "rejected": (data.rejected,)}[
        config.critic_baseline
    ]
    baseline_share = torch.zeros_like(policy).flatten(1)
    for responses in baseline_responses:
        mass = torch.full(responses.shape, 1 / (len(baseline_responses) * responses.shape[1]), dtype=baseline_share.dtype)
        baseline_share.scatter_add_(1, data.prompts * data.responses + responses, mass)
    weight = baseline_share.view_as(policy)[..., :, None] * policy.exp()[..., None, :]

    def expected(rho: Tensor) -> Tensor:
        baseline_rho, selfplay_rho = rho[..., :, None], rho[..., None, :]
        critic = objectives.spac(
            baseline_rho,
            baseline_rho,
            selfplay_rho,
            beta=config.beta,
            preference_weight=0.0,
            critic_loss=config.critic_loss,
            critic_baseline="chosen",
        )
        preference = objectives.dpo(data.select(rho, data.chosen), data.select(rho, data.rejected), beta=config.beta).mean(dim=1)
        return (config.preference_weight * preference + (weight * critic).sum(dim=(1, 2, 3)))[:, None]

    return expected
