"""The losses: pure functions of log-ratios.

`chosen`, `rejected` and `selfplay` are the log-ratios of the responses y⁺, y⁻ and y′: ρ(y) = log π(y|x) − log π_ref(y|x), in nats,
summed over the tokens of the response. π is the policy being trained, π_ref the reference policy. Inputs and losses are tensors of
shape [examples]; the caller averages the losses.

`beta` is the strength of the KL penalty; for SPAC it is the inverse of the leader's step size, β = 1/η. For SPAC the reference
policy is the previous iterate π_{t−1}, and y′ is one response to the same prompt, sampled from π_{t−1}.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

CriticLoss = Literal["smoothed", "linear"]
CriticBaseline = Literal["both", "chosen", "rejected", "none"]


def spac(
    chosen: Tensor,
    rejected: Tensor,
    selfplay: Tensor,
    *,
    beta: float,
    preference_weight: float,
    critic_loss: CriticLoss = "smoothed",
    critic_baseline: CriticBaseline = "both",
) -> Tensor:
    """SPAC's practical loss: λ · preference loss + critic term (arXiv 2406.04274; docs/method.md derives this form).

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
        critic_baseline: The responses b of the data, which estimate E_μ[f]. With a baseline, a shift of ρ per prompt cancels.

    Returns:
        The loss of each example, [examples].
    """
    baseline = {"both": [chosen, rejected], "chosen": [chosen], "rejected": [rejected], "none": [chosen.new_zeros(())]}
    differences = [beta * (response - selfplay) for response in baseline[critic_baseline]]
    terms = [-difference if critic_loss == "linear" else -logsigmoid(difference) for difference in differences]
    return preference_weight * dpo(chosen, rejected, beta=beta) + sum(terms[1:], start=terms[0]) / len(terms)


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
