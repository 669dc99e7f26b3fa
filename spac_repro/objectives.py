"""The losses, as pure functions of log-ratios.

Every argument named ρ is a tensor of shape [examples]: ρ(y) = log π(y|x) − log π_ref(y|x), summed over the tokens of the
response, where π is the policy being trained and π_ref the reference. Every loss is a tensor of shape [examples], to be averaged by
the caller. β is the inverse of the leader's step size (β = 1/η) for SPAC, the strength of the KL penalty elsewhere; λ weighs
the preferences against the critic.

For SPAC the reference is the previous iterate π_t and y′ is one response to the same prompt, sampled from π_t.
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
    """SPAC's practical loss: λ · preference loss + critic term [reading, derived].

    The critic f = β ρ (+ a constant of the prompt) is to explain the preferences and to be small on the policy's own responses,
    relative to the responses of the data.

    Args:
        chosen, rejected, selfplay: ρ(y⁺), ρ(y⁻), ρ(y′), each [examples].
        beta: β > 0.
        preference_weight: λ ≥ 0.
        critic_loss: "linear" is β·(ρ(y′) − mean of the baseline); "smoothed" replaces each c = β(ρ(b) − ρ(y′)) by −log σ(c), whose
            slope at the start is half the linear one's.
        critic_baseline: which of the data's responses stand for E_μ[f]. Only with one does a prompt-dependent shift of ρ cancel.
    """
    data = {"both": [chosen, rejected], "chosen": [chosen], "rejected": [rejected], "none": [chosen.new_zeros(())]}[critic_baseline]
    gains = [beta * (response - selfplay) for response in data]
    terms = [-gain if critic_loss == "linear" else -logsigmoid(gain) for gain in gains]
    return preference_weight * dpo(chosen, rejected, beta=beta) + sum(terms[1:], start=terms[0]) / len(terms)


def dpo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """−log σ(β(ρ(y⁺) − ρ(y⁻))): Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""
    return -logsigmoid(beta * (chosen - rejected))


def ipo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(ρ(y⁺) − ρ(y⁻) − 1/(2β))², on summed log-probabilities: IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17)."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def spin(chosen: Tensor, selfplay: Tensor, *, beta: float) -> Tensor:
    """−log σ(β(ρ(y⁺) − ρ(y′))): SPIN (Chen et al. 2024, arXiv 2401.01335, eq. 4.7 with the logistic loss)."""
    return -logsigmoid(beta * (chosen - selfplay))


def sft(chosen: Tensor, *, mean_length: float) -> Tensor:
    """−log π(y⁺|x) / mean length of the chosen responses: maximum likelihood, in nats a token on average.

    Args:
        chosen: log π(y⁺|x), [examples]; there is no reference.
        mean_length: tokens of a chosen response, on average over the data.
    """
    return -chosen / mean_length
