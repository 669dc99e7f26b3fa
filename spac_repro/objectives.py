"""The losses: pure functions of log-ratios.

`chosen`, `rejected` and `selfplay` are the log-ratios of the responses y⁺, y⁻ and y′: ρ(y) = log π(y|x) − log π_ref(y|x), in nats,
summed over the tokens of the response. π is the policy being trained, π_ref the reference policy. Inputs and losses are tensors of
shape [examples]; the caller averages the losses.

`beta` is the strength of the KL penalty; for SPAC it is the inverse of the leader's step size, β = 1/η. For SPAC the reference
policy is the previous iterate π_{t−1}, and y′ is one response to the same prompt, sampled from π_{t−1}.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

CriticLoss = Literal["smoothed", "linear"]
CriticBaseline = Literal["both", "chosen", "rejected", "none"]

LARGEST_EXPONENT = 20.0  # of π/π_ref in χPO: a ratio of 5e8, whose squares a sum of gradients in float32 still holds


def spac(
    chosen: Tensor,
    rejected: Tensor,
    selfplay: Tensor,
    *,
    beta: float,
    preference_weight: float,
    critic_loss: CriticLoss = "smoothed",
    critic_baseline: CriticBaseline = "both",
    critic_weight: float = 1.0,
    chosen_penalty_weight: float = 0.0,
) -> Tensor:
    """SPAC's practical loss: λ · preference loss + weight · critic term (arXiv 2406.04274; docs/method.md derives this form).

    The critic is f = βρ, up to a constant per prompt. It must explain the preferences, and it must be smaller on the policy's own
    responses than on the responses of the data.

    Args:
        chosen: ρ(y⁺), [examples].
        rejected: ρ(y⁻), [examples].
        selfplay: ρ(y′), [examples].
        beta: β > 0.
        preference_weight: λ ≥ 0, the weight of the preference loss.
        critic_loss: "linear" is −c with c = β·(ρ(b) − ρ(y′)), averaged over the baseline responses b. "smoothed" is −log σ(c),
            whose slope at c = 0 is half the linear one's.
        critic_baseline: The responses b of the data, which estimate E_μ[f]. With a baseline, a shift of ρ per prompt cancels
            in the critic term.
        critic_weight: The weight of the critic term. Another reading has λ here, with `preference_weight` 1.
        chosen_penalty_weight: Above 0, the preference loss is that of `dpop` with this weight, instead of that of `dpo` [assumed].

    Returns:
        The loss of each example, [examples].
    """
    baseline = {"both": [chosen, rejected], "chosen": [chosen], "rejected": [rejected], "none": [chosen.new_zeros(())]}
    differences = [beta * (response - selfplay) for response in baseline[critic_baseline]]
    terms = [-difference if critic_loss == "linear" else -logsigmoid(difference) for difference in differences]
    preference = (
        dpop(chosen, rejected, beta=beta, chosen_penalty_weight=chosen_penalty_weight)
        if chosen_penalty_weight
        else dpo(chosen, rejected, beta=beta)
    )
    return preference_weight * preference + critic_weight * (sum(terms[1:], start=terms[0]) / len(terms))


def dpo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """DPO: −log σ(β(ρ(y⁺) − ρ(y⁻))) (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""
    return -logsigmoid(beta * (chosen - rejected))


def ipo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """IPO on summed log-probabilities: (ρ(y⁺) − ρ(y⁻) − 1/(2β))² (Azar et al. 2023, arXiv 2310.12036, eq. 17)."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def spin(chosen: Tensor, selfplay: Tensor, *, beta: float) -> Tensor:
    """SPIN: −log σ(β(ρ(y⁺) − ρ(y′))) (Chen et al. 2024, arXiv 2401.01335, eq. 4.7 with the logistic loss)."""
    return -logsigmoid(beta * (chosen - selfplay))


def sft(chosen: Tensor, *, mean_length: float) -> Tensor:
    """Supervised fine-tuning: −log π(y⁺|x) / mean length of the chosen responses, in nats per token.

    Args:
        chosen: log π(y⁺|x), [examples], in nats; there is no reference policy.
        mean_length: Mean number of tokens of a chosen response over the data.
    """
    return -chosen / mean_length


def chipo(chosen: Tensor, rejected: Tensor, *, beta: float, reward_bound: float | None = None) -> Tensor:
    """χPO: −log σ(clip(β(φ(y⁺) − φ(y⁻)))) with φ = z + log z and z = π/π_ref (Huang et al. 2024, arXiv 2407.13399, Algorithm 1).

    So φ(y) = e^ρ(y) + ρ(y). Its slope is 2 at ρ = 0, where DPO's is 1. Above ρ = 20, e^ρ is held constant, so that no gradient
    overflows.

    Args:
        chosen: ρ(y⁺), [examples].
        rejected: ρ(y⁻), [examples].
        beta: Strength of the mixed χ² and KL penalty.
        reward_bound: R_max, a bound on the reward: β(φ(y⁺) − φ(y⁻)) is clipped to ±2·R_max. None: no clipping.

    Returns:
        The loss of each example, [examples].
    """
    scores = [response.clamp(max=LARGEST_EXPONENT).exp() + response for response in (chosen, rejected)]
    margin = beta * (scores[0] - scores[1])
    return -logsigmoid(margin if reward_bound is None else margin.clamp(-2 * reward_bound, 2 * reward_bound))


def rpo(chosen: Tensor, rejected: Tensor, *, beta: float, sft_weight: float) -> Tensor:
    """RPO: DPO's loss − ηβ·log π(y⁺) (Liu et al. 2024, arXiv 2405.16436, Algorithm 2 with the chosen responses as baseline).

    Here −ηβ·ρ(y⁺) stands for the second term. The two differ by the constant ηβ·log π_ref(y⁺), so their gradients are equal.

    Args:
        chosen: ρ(y⁺), [examples].
        rejected: ρ(y⁻), [examples].
        beta: Strength of the KL penalty.
        sft_weight: η ≥ 0, the weight of the supervised loss, which is summed over the tokens.

    Returns:
        The loss of each example, [examples].
    """
    return dpo(chosen, rejected, beta=beta) - sft_weight * beta * chosen


def dpop(chosen: Tensor, rejected: Tensor, *, beta: float, chosen_penalty_weight: float) -> Tensor:
    """DPO-Positive: −log σ(β(ρ(y⁺) − ρ(y⁻) − λ·max(0, −ρ(y⁺)))) (Pal et al. 2024, arXiv 2402.13228, eq. 3).

    Args:
        chosen: ρ(y⁺), [examples].
        rejected: ρ(y⁻), [examples].
        beta: Strength of the KL penalty.
        chosen_penalty_weight: λ ≥ 0, the weight of the penalty on a chosen response that is less probable than under π_ref.

    Returns:
        The loss of each example, [examples].
    """
    return -logsigmoid(beta * (chosen - rejected - chosen_penalty_weight * relu(-chosen)))


def sppo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """SPPO with hard labels: (ρ(y⁺) − 1/(2β))² + (ρ(y⁻) + 1/(2β))² (Wu et al. 2024, arXiv 2405.00675, eq. 4.7 with P = 1 and 0).

    The paper labels samples of π_{t−1} with estimated probabilities of winning. Here y⁺ and y⁻ are the data's, and their label is
    the preference itself. With β = 1/η.
    """
    return (chosen - 1 / (2 * beta)) ** 2 + (rejected + 1 / (2 * beta)) ** 2


def simpo(chosen: Tensor, rejected: Tensor, *, beta: float, gamma_beta_ratio: float) -> Tensor:
    """SimPO: −log σ(β(l(y⁺) − l(y⁻)) − γ) (Meng et al. 2024, arXiv 2405.14734, eq. 6).

    Args:
        chosen: l(y⁺) = log π(y⁺|x) / |y⁺|, the mean log-probability of a token, [examples], in nats; there is no reference policy.
        rejected: l(y⁻), likewise.
        beta: Scale of the mean log-probabilities.
        gamma_beta_ratio: γ/β ≥ 0, the margin that the mean log-probabilities shall have, in nats per token.

    Returns:
        The loss of each example, [examples].
    """
    return -logsigmoid(beta * (chosen - rejected - gamma_beta_ratio))
