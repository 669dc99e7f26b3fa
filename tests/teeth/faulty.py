"""`spac-repro` with a mistake that its manifest knows nothing of: `python faulty.py FAULT train …`."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from spac_repro import cli, iteration, objectives, pipeline
from spac_repro.data.rendering import Renderer


def no_learning() -> None:
    """The learning rate is zero."""
    iteration.peak_learning_rate = lambda run, t: 0.0


def critic_flipped() -> None:
    """The critic is rewarded for being large on the policy's own responses."""
    _with_loss(lambda own, data, wins, losses: wins + _mean([-logsigmoid(own - its) for its in data]))


def preferences_flipped() -> None:
    """The dispreferred response is preferred."""
    _with_loss(lambda own, data, wins, losses: losses + _mean([-logsigmoid(its - own) for its in data]))


def labels_swapped() -> None:
    """Of every ten preferences one is the wrong way round, behind the fingerprint's back."""
    swapped = False

    class Swapping(Renderer):
        def tokenize(self, rows: Any) -> Any:
            nonlocal swapped
            examples = super().tokenize(rows)
            if swapped:  # only the first, the training's; the held-out ones stay right
                return examples
            swapped = True
            pairs = [
                pair[::-1] if i % 10 == 0 else pair for i, pair in enumerate(zip(examples.chosen, examples.rejected, strict=True))
            ]
            return replace(examples, chosen=[chosen for chosen, _ in pairs], rejected=[rejected for _, rejected in pairs])

    pipeline.Renderer = Swapping


def _with_loss(loss: Callable[[Tensor, list[Tensor], Tensor, Tensor], Tensor]) -> None:
    def spac(chosen: Tensor, rejected: Tensor, selfplay: Tensor, *, beta: float, preference_weight: float, **_: Any) -> Tensor:
        wins, losses = (preference_weight * objectives.dpo(*pair, beta=beta) for pair in ((chosen, rejected), (rejected, chosen)))
        return loss(beta * selfplay, [beta * chosen, beta * rejected], wins, losses)

    objectives.spac = spac


def _mean(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], start=terms[0]) / len(terms)


def nothing() -> None:
    """No mistake: the way through here changes no bit."""


FAULTS = {fault.__name__: fault for fault in (nothing, no_learning, critic_flipped, preferences_flipped, labels_swapped)}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    cli.main()
