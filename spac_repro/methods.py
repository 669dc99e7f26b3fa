"""The registry of methods. The command line, recipes, reports, sweeps, benchmarks and tests take their lists of methods from here.

To add a method: write a loss in objectives.py, an entry here, and a block of settings in the recipes that support it. A plugin
registers its entry by an entry point in the group `ENTRY_POINT_GROUP`.

This module does not import torch: an entry names its loss, and the run that needs the loss imports it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator

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
    """Settings of SPAC: the weights of the preference loss and of the critic term, the critic's form, and its baseline."""

    preference_weight: NonNegativeFloat  # λ
    critic_loss: Literal["smoothed", "linear"]
    critic_baseline: Literal["both", "chosen", "rejected", "none"]
    critic_weight: NonNegativeFloat = 1.0  # in another reading this is λ: docs/method.md
    chosen_penalty_weight: NonNegativeFloat = 0.0  # above 0, the preference loss is DPO-Positive's

    @model_validator(mode="after")
    def _some_weight(self) -> "SpacSettings":
        if not self.preference_weight and not self.critic_weight:
            raise ValueError("preference_weight and critic_weight are both 0, so the loss is constant; set one of them above 0")
        return self


class ChipoSettings(ReferenceMethodSettings):
    """Settings of χPO."""

    reward_bound: PositiveFloat | None  # R_max: the margin of rewards is clipped to ±2·R_max; None: no clipping


class RpoSettings(ReferenceMethodSettings):
    """Settings of RPO."""

    sft_weight: NonNegativeFloat  # η


class DpopSettings(ReferenceMethodSettings):
    """Settings of DPO-Positive."""

    chosen_penalty_weight: NonNegativeFloat  # λ of its paper


class SimpoSettings(MethodSettings):
    """Settings of SimPO, which has no reference policy."""

    beta: PositiveFloat
    gamma_beta_ratio: NonNegativeFloat  # γ/β, in nats per token


@dataclass(frozen=True)
class Method:
    """One method of preference optimization.

    The loss takes one tensor [examples] for each of `responses`, in that order: log-ratios ρ where the method has a reference
    policy, log-probabilities log π(y|x) otherwise. With `per_token` they are divided by the number of the response's tokens. Its
    keywords are `hyperparameters` and `statistics`. It returns one loss per example, [examples].
    """

    name: str
    summary: str  # one line
    citation: str
    responses: tuple[Response, ...]  # the loss takes their log-probabilities; "selfplay" makes the run sample y′
    settings: type[MethodSettings]
    loss: str  # "module:function"
    statistics: tuple[Literal["mean_length"], ...] = ()  # mean_length: mean number of tokens of a chosen response
    per_token: bool = False  # the loss takes means over a response's tokens, the stop token included, instead of sums

    @property
    def described(self) -> str:
        """The summary with the citation."""
        return f"{self.summary} ({self.citation})"

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
register(
    Method(
        name="chipo",
        summary="χ²-preference optimization: DPO with χ² beside KL regularization",
        citation="Huang et al. 2024, arXiv 2407.13399",
        responses=("chosen", "rejected"),
        settings=ChipoSettings,
        loss="spac_repro.objectives:chipo",
    )
)
register(
    Method(
        name="rpo",
        summary="regularized preference optimization: DPO and a supervised loss on chosen",
        citation="Liu et al. 2024, arXiv 2405.16436",
        responses=("chosen", "rejected"),
        settings=RpoSettings,
        loss="spac_repro.objectives:rpo",
    )
)
register(
    Method(
        name="dpop",
        summary="DPO-Positive: DPO that keeps chosen responses as probable as under the reference",
        citation="Pal et al. 2024, arXiv 2402.13228",
        responses=("chosen", "rejected"),
        settings=DpopSettings,
        loss="spac_repro.objectives:dpop",
    )
)
register(
    Method(
        name="sppo",
        summary="self-play preference optimization, with the preferences as hard labels",
        citation="Wu et al. 2024, arXiv 2405.00675",
        responses=("chosen", "rejected"),
        settings=ReferenceMethodSettings,
        loss="spac_repro.objectives:sppo",
    )
)
register(
    Method(
        name="simpo",
        summary="simple preference optimization: mean log-probabilities, no reference",
        citation="Meng et al. 2024, arXiv 2405.14734",
        responses=("chosen", "rejected"),
        settings=SimpoSettings,
        loss="spac_repro.objectives:simpo",
        per_token=True,
    )
)
_METHODS.load_plugins()
