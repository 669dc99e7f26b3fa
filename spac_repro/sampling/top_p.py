"""Nucleus sampling (top-p) with the same result on every run of a GPU, where a floating-point `cumsum` is refused.

torch's `cumsum` of floating-point numbers adds in an order that varies on CUDA, so torch raises an error with deterministic
algorithms (`torch.use_deterministic_algorithms`).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LogitsProcessor


class TopP(LogitsProcessor):
    """Keeps the fewest most likely tokens whose probabilities sum to at least p (Holtzman et al. 2020, arXiv 1904.09751).

    On a CPU it computes what transformers' `TopPLogitsWarper` computes, bit for bit.
    """

    def __init__(self, top_p: float) -> None:
        """Set p, in (0, 1)."""
        self.top_p = top_p

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Set the logits [n, vocabulary] of all other tokens to −∞."""
        ascending, order = torch.sort(scores, descending=False)
        probabilities = ascending.softmax(-1)
        cumulative = probabilities.cumsum(-1) if scores.device.type == "cpu" else cumulative_sum(probabilities)
        removed = cumulative <= 1 - self.top_p
        removed[..., -1] = False  # the most likely token stays
        # `order.argsort()` is the inverse of `order`. Reading by it has one order of work; writing by `order` (scatter) may not.
        kept: torch.FloatTensor = scores.masked_fill(removed.gather(-1, order.argsort(-1)), -torch.inf)  # type: ignore[assignment]
        return kept


def cumulative_sum(values: Tensor) -> Tensor:
    """Sum along the last dimension up to each element, in float64 and in one fixed order.

    In ⌈log₂ n⌉ steps every element is added to the one 1, 2, 4, … places after it (Hillis and Steele 1986,
    doi 10.1145/7902.7903).

    Args:
        values: [..., n].

    Returns:
        [..., n] in float64.
    """
    total = values.double()
    distance = 1
    while distance < total.shape[-1]:
        total = total + pad(total[..., :-distance], (distance, 0))
        distance *= 2
    return total
