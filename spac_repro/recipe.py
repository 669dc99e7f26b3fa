"""What a run is: a recipe, a method and a seed.

A recipe is one YAML file. Every setting is written with where it comes from:

    beta: {value: 1.0, from: tested, why: the best of 0.1, 1 and 10 on the tuning seed}

The marks: [abstract] and [reading] of the paper, [derived] from those, [tested] by an experiment of ours, [SPIN] the published
configuration of the nearest peer, [assumed] a choice of ours; [set] is a `--set` on the command line.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spac_repro.errors import UserError

MARKS = ("abstract", "reading", "derived", "tested", "SPIN", "assumed")  # and "set", which no file may use
Method = Literal["spac", "dpo", "ipo", "spin", "sft"]
METHODS: tuple[Method, ...] = ("spac", "dpo", "ipo", "spin", "sft")

# The responses whose log-probabilities each method's loss is made of.
USED: dict[str, tuple[str, ...]] = {
    "spac": ("chosen", "rejected", "selfplay"),
    "spin": ("chosen", "selfplay"),
    "dpo": ("chosen", "rejected"),
    "ipo": ("chosen", "rejected"),
    "sft": ("chosen",),
}

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """A group of settings: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Architecture(Settings):
    """Shape of a Mistral-architecture policy that starts from random weights."""

    hidden_size: Positive
    intermediate_size: Positive
    layers: Positive
    heads: Positive
    key_value_heads: Positive
    sliding_window: Positive | None
    longest_sequence: Positive


class Policy(Settings):
    """The policy's weights and arithmetic before any training."""

    source: Literal["random", "package", "hub"]
    name: str  # hub: owner/name; package: distribution that carries the weights
    revision: str | None  # hub: a commit; package: the distribution's version
    parameters: Positive | None  # for the plan; None: counted from the architecture
    architecture: Architecture | None
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager"]

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> "Policy":
        if (self.architecture is not None) != (self.source == "random"):
            raise ValueError("`architecture` belongs to `source: random` and to nothing else")
        if self.source != "random" and not self.revision:
            raise ValueError("`revision` is needed: a name alone can change what it points to")
        return self


class WorldSettings(Settings):
    """The built-in world. The four shares are μ's, and sum to 1; `garbage` is the part that the data covers thinly."""

    seed: int
    preference_scale: AtLeast0
    right: Share
    near_miss: Share
    cut_off: Share
    garbage: Share

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "WorldSettings":
        total = self.right + self.near_miss + self.cut_off + self.garbage
        if abs(total - 1) > 1e-9:
            raise ValueError(f"right + near_miss + cut_off + garbage is {total:g}, and must be 1")
        return self


class Data(Settings):
    """The offline preferences, and how prompt and response become tokens."""

    source: Literal["world", "file", "hub"]
    name: str | None  # hub: owner/name
    revision: str | None
    pairs: Positive | None  # the first so many rows; None: all
    template: Literal["plain", "chat", "instruction"]
    longest_prompt: Positive  # tokens; of a longer prompt the end is kept …
    longest_response: Positive  # … and of a longer response the beginning, end-of-sequence included
    overlong_prompts: Literal["truncate", "refuse"]
    world: WorldSettings | None


class Start(Settings):
    """A supervised start on demonstrations of the world's behaviour."""

    demonstrations: Positive
    epochs: Positive
    batch_size: Positive
    few_shot_share: Share  # share of the steps whose rows hold several demonstrations, so that few-shot prompts are not new
    learning_rate: Above0
    warmup: Share
    weight_decay: AtLeast0


class SelfPlay(Settings):
    """y′ ~ π_t(·|x), one response a prompt."""

    temperature: Above0
    top_p: Annotated[float, Field(gt=0, le=1)]
    batch_size: Positive  # prompts that share a seed, and are kept when all have their responses
    at_once: Positive | None  # so many of them at the same time, the next where one has ended; None: all
    generator: Literal["transformers", "vllm"]  # vllm: the extra of that name, for self-play; other draws of the same distribution


class Optimised(Settings):
    """What every method has."""

    learning_rate: Above0
    last_learning_rate: Above0 | None  # for the last iteration, where it differs


class Referenced(Optimised):
    """What every method with a reference policy has."""

    beta: Above0
    last_beta: Above0 | None
    reference: Literal["previous", "start"]


class Spac(Referenced):
    preference_weight: AtLeast0  # λ
    critic: Literal["smoothed", "linear"]
    baseline: Literal["both", "chosen", "rejected", "none"]


class Methods(Settings):
    """Every method with its own settings; a run uses one."""

    spac: Spac
    dpo: Referenced
    ipo: Referenced
    spin: Referenced
    sft: Optimised


class Training(Settings):
    """The same for every method: equal numbers of optimiser steps."""

    iterations: Positive  # T
    epochs: Positive  # passes over the data in each iteration
    batch_size: Positive  # examples an optimiser step, over all processes
    micro_batch_tokens: Positive  # tokens a process computes at once, prompts counted once
    optimizer: Literal["adamw", "rmsprop"]
    schedule: Literal["linear", "constant"]
    warmup: Share  # share of an iteration's steps
    weight_decay: AtLeast0
    max_grad_norm: Above0
    precision: Literal["float32", "bfloat16"]  # bfloat16: autocast
    gradient_checkpointing: bool
    engine: Literal["accelerate", "deepspeed-zero2", "deepspeed-zero3"]
    processes: Positive
    threads: Positive | None  # of a process, on CPU; None: as many as there are cores
    checkpoint_every: Positive  # optimiser steps
    checkpoints_kept: Annotated[int, Field(ge=1)]


class Evaluation(Settings):
    """What is measured on every iterate."""

    suite: Literal["mini", "openllm", "none"]
    tasks: tuple[str, ...] | None  # None: all of the suite
    limit: Positive | None  # items a task; None: all
    batch_size: Positive
    gold_prompts: Annotated[int, Field(ge=0)]  # held-out prompts of the world; 0 where there is no gold reward
    gold_samples: Positive  # responses sampled for each
    heldout_pairs: Annotated[int, Field(ge=0)]  # of the world's, to measure the distance from the start on


class Recipe(Settings):
    """A recipe: every setting of every method."""

    name: str
    summary: str
    policy: Policy
    data: Data
    start: Start | None
    selfplay: SelfPlay
    methods: Methods
    training: Training
    evaluation: Evaluation

    @model_validator(mode="after")
    def _world_where_needed(self) -> "Recipe":
        if (self.data.world is not None) != (self.data.source == "world"):
            raise ValueError("`data.world` belongs to `data.source: world`: a recipe with a built-in world takes no --preferences")
        if self.data.world is None and (
            self.start or self.evaluation.suite == "mini" or self.evaluation.gold_prompts or self.evaluation.heldout_pairs
        ):
            raise ValueError(
                "a supervised start, the mini leaderboard, the gold reward and held-out pairs need `data.source: world`"
            )
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
    method: Method
    seed: int
    provenance: Mapping[str, Provenance]  # by dotted key

    @property
    def objective(self) -> Spac | Referenced | Optimised:
        """The settings of the run's method."""
        return getattr(self.recipe.methods, self.method)

    def settings(self) -> dict[str, Any]:
        """What identifies the run but for its seed: every setting that bears on it, the other methods' left out."""
        settings = self.recipe.model_dump(mode="json", exclude={"methods", "summary"})
        return {"method": self.method, "objective": self.objective.model_dump(mode="json"), **settings}

    def start_settings(self) -> dict[str, Any]:
        """The settings that bear on iteration 0, policy and scores: runs that agree in them, and in their seed, share it."""
        return start_settings(self.settings())

    def digest(self) -> str:
        """SHA-256 of the settings: the same for all seeds."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()


def start_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's settings that bears on iteration 0."""
    parts = ("policy", "data", "start", "selfplay", "evaluation")  # self-play: how the gold reward's responses are sampled
    arithmetic = ("max_grad_norm", "precision", "engine", "processes", "threads")
    return {part: settings[part] for part in parts} | {"training": {key: settings["training"].get(key) for key in arithmetic}}


def names() -> list[str]:
    """The recipes that ship with the package."""
    folder = resources.files("spac_repro") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(name: str, *, method: str = "spac", seed: int = 0, overrides: Sequence[str] = ()) -> Run:
    """Read a recipe by name or file, apply `key=value` overrides, and choose method and seed.

    Raises:
        UserError: an unknown recipe, method or key (with the nearest name), or a value out of range.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}{_nearest(method, METHODS)}; the methods are {', '.join(METHODS)}")
    where, text = _read(name)
    values, provenance = _parse(where, text)
    for override in overrides:
        _override(values, provenance, override, method)
    recipe = _validate(where, values)
    return Run(recipe, method, seed, provenance)


def _read(name: str) -> tuple[str, str]:
    if name in names():
        return f"recipe {name}", (resources.files("spac_repro") / "recipes" / f"{name}.yaml").read_text()
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return str(path), path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    raise UserError(f"unknown recipe {name!r}{_nearest(name, names())}; the recipes are {', '.join(names())}, or a YAML file")


def _parse(where: str, text: str) -> tuple[dict[str, Any], dict[str, Provenance]]:
    """The plain tree of values, and the provenance of each leaf."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise UserError(f"{where}{line}: not YAML ({problem}); see `spac-repro recipes show tiny`") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: not a recipe: a mapping of settings is wanted; see `spac-repro recipes show tiny`")
    provenance: dict[str, Provenance] = {}
    values = _strip(where, tree, "", provenance)
    return values, provenance


def _strip(where: str, tree: Mapping[str, Any], prefix: str, provenance: dict[str, Provenance]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, node in tree.items():
        key = f"{prefix}{name}"
        if isinstance(node, dict) and "value" in node:
            provenance[key] = _provenance(where, key, node)
            values[name] = node["value"]
        elif isinstance(node, dict):
            values[name] = _strip(where, node, f"{key}.", provenance)
        elif key in ("name", "summary") or node is None:
            values[name] = node
        else:
            raise UserError(f"{where}: {key}: no provenance; write it as {{value: {node}, from: assumed, why: …}}")
    return values


def _provenance(where: str, key: str, node: Mapping[str, Any]) -> Provenance:
    if extra := set(node) - {"value", "from", "why"}:
        raise UserError(f"{where}: {key}: unknown key {sorted(extra)[0]!r}; a setting has value, from and why")
    mark = node.get("from")
    if mark not in MARKS:
        raise UserError(f"{where}: {key}: `from` is {mark!r}; it must be one of {', '.join(MARKS)}")
    return Provenance(mark, str(node.get("why", "")))


def _override(values: dict[str, Any], provenance: dict[str, Provenance], override: str, method: str) -> None:
    """Apply `a.b=value`; `objective.` stands for the settings of the run's method."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write key=value, for example --set training.epochs=1")
    if key.startswith("objective."):
        key = f"methods.{method}.{key.removeprefix('objective.')}"
    *groups, leaf = key.split(".")
    node: Any = values
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict) or key in ("name", "summary"):
        keys = list(leaves(values))
        raise UserError(f"--set {override}: unknown key {key!r}{_nearest(key, keys)}; `spac-repro recipes show` lists the keys")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {text!r} is not a value; write a number, a word or null") from None
    provenance[key] = Provenance("set", f"--set {override}")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a tree's values."""
    for name, node in values.items():
        if isinstance(node, dict):
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _validate(where: str, values: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            group: Any = Recipe
            for part in first["loc"][:-1]:
                group = _model_of(group.model_fields[part].annotation)
            raise UserError(f"{where}: unknown key {key!r}{_nearest(str(first['loc'][-1]), list(group.model_fields))}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: {key}: missing; see `spac-repro recipes show tiny` for a complete recipe") from None
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" (given {first['input']!r})"
        raise UserError(f"{where}: {key or 'recipe'}: {message}{given}") from None


def _model_of(annotation: Any) -> Any:
    """The settings class in `X` or `X | None`."""
    options = getattr(annotation, "__args__", (annotation,))
    return next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))


def _nearest(given: str, known: Sequence[str]) -> str:
    # A key may be right but for its group: compare last parts too.
    tails = {name.rsplit(".", 1)[-1]: name for name in known}
    close = difflib.get_close_matches(given, known, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(given.rsplit(".", 1)[-1], list(tails), n=1)
    ]
    return f" (did you mean {close[0]}?)" if close else ""
