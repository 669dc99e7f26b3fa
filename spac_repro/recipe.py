"""What a run is: a recipe, a method and a seed.

A recipe is one YAML file. Every setting is written with where it comes from:

    beta: {value: 1.0, from: tested, why: the best of 0.1, 1 and 10 on the tuning seed}

The marks: [abstract] and [reading] of the paper, [derived] from those, [tested] by an experiment of ours, [SPIN] the published
configuration of the nearest peer, [assumed] a choice of ours; [set] an option of the command line (`--set`, or one that stands
for it); [default] the neutral value of a setting that the file leaves out.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from spac_repro import engines, methods, protocols, suites
from spac_repro.documents.base_model import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Settings
from spac_repro.documents.defaults import fill_defaults
from spac_repro.errors import UserError
from spac_repro.methods import MethodSettings
from spac_repro.policy_settings import PolicySettings

RECIPE_NAME = re.compile(r"\w[\w.-]{0,99}")
MARKS = ("abstract", "reading", "derived", "tested", "SPIN", "assumed")  # and "set" and "default", which no file may use

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[engines.names()]


def _suite(given: Any) -> Any:
    """The suite of that name, or the one in a folder; in settings it goes by its name."""
    if not isinstance(given, str):
        return given
    try:
        return suites.of_recipe(given)
    except UserError as error:
        raise ValueError(str(error)) from None


Suite = Annotated[InstanceOf[suites.Suite], BeforeValidator(_suite), PlainSerializer(lambda suite: suite.name, return_type=str)]


def _iso_date(given: Any) -> date:
    try:
        return date.fromisoformat(str(given))
    except ValueError:
        raise ValueError("a date is written YYYY-MM-DD") from None


IsoDate = Annotated[date, BeforeValidator(_iso_date)]


class WorldSettings(Settings):
    """The built-in world. The four shares are μ's, and sum to 1; `garbage` is the part that the data covers thinly."""

    seed: int
    preference_scale: NonNegativeFloat
    correct: Fraction
    near_miss: Fraction
    truncated: Fraction
    garbage: Fraction

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "WorldSettings":
        total = self.correct + self.near_miss + self.truncated + self.garbage
        if abs(total - 1) > 1e-9:
            raise ValueError(f"correct + near_miss + truncated + garbage is {total:g}, and must be 1")
        return self


class DataSettings(Settings):
    """The offline preferences, and how prompt and response become tokens."""

    source: Literal["world", "file", "hub"]
    name: str | None  # hub: owner/name
    revision: str | None
    max_pairs: PositiveInt | None  # use only the first N preference pairs; None: all of them
    heldout_prompts: PositiveInt | None = (
        None  # prompts whose pairs are never trained on: every iterate is scored on them; None: none
    )
    prompt_template: Literal["plain", "chat", "instruction"]
    chat_template_date: IsoDate | None = (
        None  # what a chat template that asks for today's date gets; None: such a template is refused
    )
    max_prompt_tokens: PositiveInt  # tokens; of a longer prompt the end is kept …
    max_response_tokens: PositiveInt  # … and of a longer response the beginning, the stop token included
    overlong_prompts: Literal["truncate", "refuse"]
    world: WorldSettings | None

    @model_validator(mode="after")
    def _date_has_a_template(self) -> "DataSettings":
        if self.chat_template_date is not None and self.prompt_template != "chat":
            raise ValueError("`chat_template_date` belongs to `prompt_template: chat`: no other template asks for the date")
        return self


class SupervisedStart(Settings):
    """A supervised start on demonstrations of the world's behaviour."""

    num_demonstrations: PositiveInt
    epochs: PositiveInt
    global_batch_size: PositiveInt
    few_shot_fraction: Fraction  # share of the steps whose rows hold several demonstrations, so that few-shot prompts are not new
    learning_rate: PositiveFloat
    warmup_ratio: Fraction
    weight_decay: NonNegativeFloat


class SelfPlaySettings(Settings):
    """Sampling of y′ ~ π_{t−1}(·|x), one response per prompt."""

    temperature: Annotated[float, Field(ge=1e-4, le=1e4)]  # below, logits / temperature is not finite in float32
    top_p: Annotated[float, Field(gt=0, le=1)]
    prompts_per_seed: PositiveInt  # prompts that share a seed; their responses are saved together, once all of them are complete
    decode_batch_size: (
        PositiveInt | None
    )  # prompts decoded at the same time; the next begins where one has ended. None: prompts_per_seed
    backend: Literal["transformers", "vllm"]  # vllm: `make vllm` is needed; it draws other samples of the same distribution


class _Methods(Settings):
    """The settings of each method that a recipe supports; a run uses one."""

    @model_serializer(mode="wrap")
    def _supported(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: block for name, block in write(self).items() if block is not None}


if TYPE_CHECKING:
    Methods = _Methods
else:
    # One optional block a registered method.
    _blocks = {method.name: (method.settings | None, None) for method in methods.all_methods()}
    Methods = create_model("Methods", __base__=_Methods, **_blocks)


class TrainingSettings(Settings):
    """The same for every method: equal numbers of optimizer steps."""

    iterations: PositiveInt  # T
    epochs_per_iteration: PositiveInt  # passes over the preference pairs
    global_batch_size: PositiveInt  # examples per optimizer step, over all processes
    micro_batch_tokens: PositiveInt  # tokens a process computes at once, prompts counted once
    optimizer: Literal["adamw", "rmsprop"]
    lr_scheduler_type: Literal["linear", "constant"]
    warmup_ratio: Fraction  # share of the steps of an iteration
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    compute_dtype: Literal["float32", "bfloat16"]  # bfloat16: forward and backward under autocast
    gradient_checkpointing: bool
    engine: EngineName
    processes: Annotated[int, Field(gt=0, le=2**16)]
    device: Literal["cuda"] | None = None  # cuda: refuse a machine without a GPU for each process; None: a GPU where there is one
    threads: Annotated[int, Field(gt=0, le=1024)] | None  # of a process, on CPU; None: as many as there are cores
    save_steps: PositiveInt  # optimizer steps
    save_total_limit: Annotated[int, Field(ge=1)]


class EvaluationSettings(Settings):
    """What is measured on every iterate."""

    suite: Suite
    tasks: tuple[str, ...] | None  # None: all of the suite
    limit: PositiveInt | None  # items a task; None: all
    batch_size: PositiveInt
    gold_prompts: Annotated[int, Field(ge=0)]  # held-out prompts of the world; 0 where there is no gold reward
    gold_samples_per_prompt: PositiveInt  # responses sampled for each
    heldout_pairs: Annotated[int, Field(ge=0)]  # of the world's, to measure the distance from the start on
    protocol: protocols.Name = protocols.CURRENT  # what else than the weights moves a leaderboard score: docs/leaderboard.md

    @model_validator(mode="after")
    def _suite_has_the_tasks(self) -> "EvaluationSettings":
        known = self.suite.task_names
        for task in self.tasks or ():
            if known is not None and task not in known:
                raise ValueError(f"tasks: {self.suite.name} has no task {task!r}; its tasks are {', '.join(known) or 'none'}")
        if self.tasks is not None and len({*self.tasks}) < max(len(self.tasks), 1):
            raise ValueError("tasks: name each task once, or write null for all of the suite")
        return self


def _recipe_name(name: str) -> str:
    if not RECIPE_NAME.fullmatch(name):
        raise ValueError("must be a name of letters, digits, `_`, `.` and `-`; folders and files are named after it")
    return name


RecipeName = Annotated[str, AfterValidator(_recipe_name)]


class Recipe(Settings):
    """A recipe: every setting of every method that it supports."""

    name: RecipeName
    summary: str
    policy: PolicySettings
    data: DataSettings
    supervised_start: SupervisedStart | None
    selfplay: SelfPlaySettings
    methods: Methods
    training: TrainingSettings
    evaluation: EvaluationSettings

    @model_validator(mode="after")
    def _world_where_needed(self) -> "Recipe":
        if (self.data.world is not None) != (self.data.source == "world"):
            raise ValueError("`data.world` belongs to `data.source: world`: a recipe with a built-in world takes no --preferences")
        if self.data.world is None and (
            self.supervised_start
            or self.evaluation.suite.uses_world
            or self.evaluation.gold_prompts
            or self.evaluation.heldout_pairs
        ):
            raise ValueError(
                "a supervised start, a suite of the built-in world, the gold reward and held-out pairs need `data.source: world`"
            )
        if self.data.world is not None and self.data.heldout_prompts:
            raise ValueError(
                "`data.heldout_prompts` is for preferences of one's own; the world makes `evaluation.heldout_pairs` more"
            )
        return self

    @property
    def has_heldout(self) -> bool:
        """Whether iterates are scored on held-out preferences."""
        return bool(self.evaluation.heldout_pairs or self.data.heldout_prompts)

    @model_validator(mode="after")
    def _adapter_where_it_can_be_trained(self) -> "Recipe":
        if self.policy.adapter is None:
            return self
        if engines.get(self.training.engine).shards_optimizer:
            raise ValueError(
                f"`policy.adapter` is not supported with `training.engine: {self.training.engine}`: there is too little to shard; "
                "set training.engine=accelerate"
            )
        if self.selfplay.backend != "transformers":
            raise ValueError("`policy.adapter` is not supported with `selfplay.backend: vllm`; set selfplay.backend=transformers")
        return self


@dataclass(frozen=True)
class Provenance:
    """Where a setting comes from."""

    mark: str
    why: str = ""


@dataclass(frozen=True)
class Run:
    """One run: what it does is a function of this, its inputs and its environment."""

    recipe: Recipe
    method: str
    seed: int
    provenance: Mapping[str, Provenance]  # by dotted key

    @property
    def method_settings(self) -> MethodSettings:
        """The settings of the run's method."""
        settings: MethodSettings = getattr(self.recipe.methods, self.method)
        return settings

    def is_path(self, key: str) -> bool:
        """Whether a setting is a path on this machine, which no manifest holds."""
        return key == "policy.name" and self.recipe.policy.source == "folder"

    def settings(self) -> dict[str, Any]:
        """What identifies the run but for its seed: every setting that bears on it, the other methods' left out.

        A setting at its default, which is neutral, is left out: so a new one changes no digest, and old runs are still met.
        `training.device` is left out: it refuses machines and changes no computation, and the environment names the GPUs. So is the
        path of a policy that is a folder: its hash, the revision, identifies it.
        """
        left_out: Any = {"methods": True, "summary": True, "training": {"device"}}
        if self.is_path("policy.name"):
            left_out["policy"] = {"name"}
        settings = self.recipe.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        own = {self.method: self.method_settings.model_dump(mode="json", exclude_defaults=True)}
        return {"method": self.method, "methods": own, **settings}

    def start_settings(self) -> dict[str, Any]:
        """The settings that bear on iteration 0, policy and scores: runs that agree in them, and in their seed, share it."""
        return start_settings(self.settings())

    @cached_property
    def settings_sha256(self) -> str:
        """SHA-256 of the settings: the same for all seeds."""
        return settings_digest(self.settings())


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a run's settings, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as a manifest has them, with those that they leave out because they stand at their neutral values.

    To be compared with other runs' settings, in which they may stand at other values. What this version does not know is kept.
    """
    return fill_defaults(Recipe, settings)


def start_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's settings that determines iteration 0: its policy and its scores.

    Self-play is in it because the gold reward samples as self-play does. `micro_batch_tokens` is in it where held-out
    log-probabilities are computed: they are batched by it. The supervised start is not. An adapter is added later, so of its
    settings only the base's bits are in it.
    """
    parts = ("policy", "data", "supervised_start", "selfplay", "evaluation")
    arithmetic = ["max_grad_norm", "compute_dtype", "engine", "processes", "threads"]
    if (settings.get("evaluation") or {}).get("heldout_pairs") or (settings.get("data") or {}).get("heldout_prompts"):
        arithmetic.append("micro_batch_tokens")
    training = settings.get("training", {})
    return {part: _without_adapter(settings.get(part)) for part in parts} | {
        "training": {key: training[key] for key in arithmetic if key in training}
    }


def _without_adapter(part: Any) -> Any:
    """A part of the settings; of an adapter in it only that the base is quantized."""
    if not isinstance(part, Mapping) or "adapter" not in part:
        return part
    bits = (part["adapter"] or {}).get("base_bits")
    rest = {key: value for key, value in part.items() if key != "adapter"}
    return {**rest, "adapter": {"base_bits": bits}} if bits else rest
