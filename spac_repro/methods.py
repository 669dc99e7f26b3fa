"""The registry of methods. The command line, recipes, reports, sweeps, benchmarks and tests take their lists of methods from here.

To add a method: write a loss in objectives.py, an entry here, and a block of settings in the recipes that support it. A plugin
registers its entry by an entry point in the group `ENTRY_POINT_GROUP`.

This module does not import torch: an entry names its loss, and the run that needs the loss imports it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from spac_repro.documents.base_model import NonNegativeFloat, PositiveFloat, Settings
from spac_repro.registry import Registry, import_object

ENTRY_POINT_GROUP = "spac_repro.methods"  # of plugins

Response = Literal["chosen", "rejected", "selfplay"]


class MethodSettings(Settings):
    """Settings of every method."""

    learning_rate: PositiveFloat
    last_iteration_learning_rate: PositiveFloat | None  # for the last iteration, where it differs


class ReferenceMethodSettings(MethodSettings):
    """Settings of every method with a reference policy."""

    beta: PositiveFloat
    last_iteration_beta: PositiveFloat | None
    reference_policy: Literal["previous", "start"]


class SpacSettings(ReferenceMethodSettings):
    """Settings of SPAC: the weight of the preference loss, the form of the critic term, and its baseline."""

    preference_weight: NonNegativeFloat  # λ
    critic_loss: Literal["smoothed", "linear"]
    critic_baseline: Literal["both", "chosen", "rejected", "none"]


@dataclass(frozen=True)
class Method:
    """One method of preference optimization.

    The loss takes one tensor [examples] for each of `responses`, in that order: log-ratios ρ where the method has a reference
    policy, log-probabilities log π(y|x) otherwise. Its keywords are `hyperparameters` and `statistics`. It returns one loss per
    example, [examples].
    """

    name: str
    summary: str  # one line
    citation: str
    responses: tuple[Response, ...]  # the loss takes their log-probabilities; "selfplay" makes the run sample y′
    settings: type[MethodSettings]
    loss: str  # "module:function"
    statistics: tuple[Literal["mean_length"], ...] = ()  # mean_length: mean number of tokens of a chosen response

    @property
    def uses_self_play(self) -> bool:
        """Whether the run samples responses from the current policy."""
        return "selfplay" in self.responses

    @property
    def has_reference(self) -> bool:
        """Whether the loss takes log-ratios to a reference policy."""
        return issubclass(self.settings, ReferenceMethodSettings)

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """The settings that the loss takes as keywords."""
        shared = (ReferenceMethodSettings if self.has_reference else MethodSettings).model_fields
        return (*(("beta",) if self.has_reference else ()), *(name for name in self.settings.model_fields if name not in shared))

    def load_loss(self) -> Callable[..., Any]:
        """Import the loss.

        Raises:
            UserError: It cannot be imported.
        """
        loss: Callable[..., Any] = import_object(self.loss)
        return loss


_METHODS: Registry[Method] = Registry("method", ENTRY_POINT_GROUP, Method)
register, names, get, all_methods, origin = (
    _METHODS.register,
    _METHODS.names,
    _METHODS.get,
    _METHODS.entries,
    _METHODS.origin,
)

register(
    Method(
        name="spac",
        summary="self-play with an adversarial critic",
        citation="arXiv 2406.04274",
        responses=("chosen", "rejected", "selfplay"),
        settings=SpacSettings,
        loss="spac_repro.objectives:spac",
    )
)
register(
    Method(
        name="dpo",
        summary="Direct Preference Optimization",
        citation="Rafailov et al. 2023, arXiv 2305.18290",
        responses=("chosen", "rejected"),
        settings=ReferenceMethodSettings,
        loss="spac_repro.objectives:dpo",
    )
)
register(
    Method(
        name="ipo",
        summary="Identity Preference Optimization, on summed log-probabilities",
        citation="Azar et al. 2023, arXiv 2310.12036",
        responses=("chosen", "rejected"),
        settings=ReferenceMethodSettings,
        loss="spac_repro.objectives:ipo",
    )
)
register(
    Method(
        name="spin",
        summary="self-play fine-tuning: chosen against self-play, rejected unused",
        citation="Chen et al. 2024, arXiv 2401.01335",
        responses=("chosen", "selfplay"),
        settings=ReferenceMethodSettings,
        loss="spac_repro.objectives:spin",
    )
)
register(
    Method(
        name="sft",
        summary="more supervised steps on the chosen responses",
        citation="maximum likelihood",
        responses=("chosen",),
        settings=MethodSettings,
        loss="spac_repro.objectives:sft",
        statistics=("mean_length",),
    )
)
_METHODS.load_plugins()
