"""The impact of a recorded difference between two runs: it changes the numbers by design, may change bits, or does nothing.

`KNOWN_IMPACTS` is sorted by explanatory power: an entry explains the differences of those after it. A key without an entry gets a
default: settings and inputs change the numbers by design, everything else may change bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from spac_repro import engines, methods


class Impact(StrEnum):
    """What a difference can do to the numbers, strongest first."""

    BY_DESIGN = "changes the numbers by design"
    BITS = "may change bits"
    NONE = "cannot matter"


@dataclass(frozen=True)
class KnownImpact:
    """What is known about a difference in a recorded key."""

    pattern: str  # of dotted keys, with `*`
    impact: Impact
    size: str = ""  # how large it is and why, in words
    source: str = ""  # who measured or reported it


MEASURED = "docs/reproducibility.md"
THREADS = {
    "SPIN 12": "https://github.com/uclaml/SPIN/issues/12",
    "SPIN 36": "https://github.com/uclaml/SPIN/issues/36",
    "handbook 44": "https://github.com/huggingface/alignment-handbook/issues/44",
    "handbook 124": "https://github.com/huggingface/alignment-handbook/issues/124",
    "harness 1645": "https://github.com/EleutherAI/lm-evaluation-harness/issues/1645",
}

KNOWN_IMPACTS = (
    # Said first: it decides whether scores can be held against each other at all
    KnownImpact(
        "settings.evaluation.protocol",
        Impact.BY_DESIGN,
        "other prompts, tokens and extraction: leaderboard scores are not held against each other; weights do not change",
    ),
    KnownImpact("recipe", Impact.BY_DESIGN, "another experiment"),
    KnownImpact("method", Impact.BY_DESIGN, "another loss"),
    KnownImpact("settings_sha256", Impact.BY_DESIGN, "other settings; the expected results record only their hash"),
    # What goes in
    KnownImpact(
        "settings.policy.revision",
        Impact.BY_DESIGN,
        "another model: other weights, under the same name or in a folder",
        THREADS["SPIN 36"],
    ),
    KnownImpact(
        "settings.policy.dtype", Impact.BY_DESIGN, "weights of 8 significant bits instead of 24 lose small steps", MEASURED
    ),
    KnownImpact("settings.policy.attn_implementation", Impact.BITS, "the same sums in another order; bits change", MEASURED),
    KnownImpact("settings.policy.adapter.num_parameters", Impact.NONE, "for the plan only"),
    KnownImpact("settings.policy.adapter*", Impact.BY_DESIGN, "an adapter is trained instead of all weights, or another adapter"),
    KnownImpact("settings.policy.*", Impact.BY_DESIGN, "another model"),
    KnownImpact("inputs.policy_sha256", Impact.BY_DESIGN, "another initial model, even under the same name", THREADS["SPIN 36"]),
    KnownImpact(
        "settings.data.chat_template_date", Impact.BY_DESIGN, "another date in every prompt, if the template asks for one", MEASURED
    ),
    KnownImpact("settings.data.*", Impact.BY_DESIGN, "other preferences, or other tokens for the same ones", MEASURED),
    KnownImpact("inputs.dropout_set_to_zero*", Impact.BY_DESIGN, "another model, or the same one trained with dropout", MEASURED),
    KnownImpact("inputs.preferences", Impact.BY_DESIGN, "another number of preferences"),
    KnownImpact("inputs.preferences_sha256", Impact.BY_DESIGN, "other preferences, or the same in another order", MEASURED),
    KnownImpact("inputs.heldout*", Impact.BY_DESIGN, "other held-out preferences: their scores change, weights do not"),
    KnownImpact("inputs.stop_token_ids*", Impact.BY_DESIGN, "responses stop at other tokens, so other responses are sampled"),
    KnownImpact("inputs.tokenizer_sha256", Impact.BY_DESIGN, "other tokens for the same text"),
    KnownImpact(
        "inputs.chat_template_sha256", Impact.BY_DESIGN, "other text around every prompt, if the template is `chat`", MEASURED
    ),
    KnownImpact(
        "seed",
        Impact.BY_DESIGN,
        "another start policy, other samples, another order; the spread over seeds is the unit of noise",
        MEASURED,
    ),
    KnownImpact("settings.supervised_start.*", Impact.BY_DESIGN, "another start policy"),
    # What is done
    KnownImpact(
        "settings.selfplay.backend",
        Impact.BY_DESIGN,
        "another sampler draws other responses; authors name it as a cause",
        THREADS["SPIN 36"],
    ),
    KnownImpact(
        "settings.selfplay.prompts_per_seed", Impact.BY_DESIGN, "each batch has its own seed, so other responses are sampled"
    ),
    KnownImpact(
        "settings.selfplay.decode_batch_size",
        Impact.BY_DESIGN,
        "the random draws of a batch come in another order, so other responses are sampled",
    ),
    KnownImpact("settings.selfplay.*", Impact.BY_DESIGN, "other responses are sampled", MEASURED),
    KnownImpact("settings.methods.*", Impact.BY_DESIGN, "another loss or step size", MEASURED),
    KnownImpact(
        "settings.training.epochs_per_iteration",
        Impact.BY_DESIGN,
        "another number of steps, on another learning-rate schedule",
        THREADS["SPIN 12"],
    ),
    KnownImpact(
        "settings.training.micro_batch*", Impact.BITS, "the same mean over the same examples, summed in another order", MEASURED
    ),
    KnownImpact(
        "settings.training.processes", Impact.BITS, "the same global batch, summed in another order", THREADS["handbook 124"]
    ),
    KnownImpact(
        "settings.training.engine",
        Impact.BITS,
        "the same global batch, sharded and summed in another way",
        THREADS["handbook 124"],
    ),
    KnownImpact("settings.training.gradient_checkpointing", Impact.BITS, "activations are recomputed instead of stored"),
    KnownImpact("settings.training.compute_dtype", Impact.BY_DESIGN, "products are rounded to 8 significant bits instead of 24"),
    KnownImpact(
        "settings.training.threads", Impact.BITS, "sums may be split in another way; no bit changed where it was tried", MEASURED
    ),
    KnownImpact("settings.training.save_steps", Impact.NONE, "how often checkpoints are written", MEASURED),
    KnownImpact("settings.training.save_total_limit", Impact.NONE, "how many checkpoints are kept"),
    KnownImpact("settings.training.global_batch_size", Impact.BY_DESIGN, "fewer or more steps", THREADS["handbook 44"]),
    KnownImpact("settings.training.*", Impact.BY_DESIGN, "other steps"),
    # How it is measured
    KnownImpact("inputs.questions_sha256*", Impact.BY_DESIGN, "other questions: scores change, weights do not"),
    KnownImpact("inputs.suite_sha256*", Impact.BY_DESIGN, "other tasks: scores change, weights do not"),
    KnownImpact(
        "scores.harness",
        Impact.BITS,
        "prompts and answers may be processed in another way: scores change, weights do not",
        THREADS["SPIN 36"],
    ),
    KnownImpact("scores.version.*", Impact.BY_DESIGN, "another version of the task: scores change, weights do not"),
    KnownImpact(
        "settings.evaluation.batch_size",
        Impact.BITS,
        "padding and rounding only; weights do not change. 0.04 points on HellaSwag for a 7B on a GPU",
        THREADS["harness 1645"],
    ),
    KnownImpact("settings.evaluation.*", Impact.BY_DESIGN, "another measurement: scores change, weights do not"),
    # Where it is done
    KnownImpact("environment.gpus", Impact.BITS, "other kernels"),
    KnownImpact("environment.platform", Impact.BITS, "other libraries and kernels"),
    KnownImpact(
        "environment.kernels.cpu_capability", Impact.BITS, "torch sums in another order with other vector instructions", MEASURED
    ),
    KnownImpact("environment.variables.*", Impact.BITS, "libraries may choose other kernels; MKL_CBWR changed bits", MEASURED),
    KnownImpact("environment.cpu", Impact.BITS, "another instruction set may choose other kernels"),
    KnownImpact("environment.processor*", Impact.BITS, "MKL and oneDNN choose their kernels by it"),
    KnownImpact("environment.kernels*", Impact.BITS, "other libraries under torch"),
    KnownImpact("environment.gpu_kernels.tf32*", Impact.BY_DESIGN, "products of float32 are rounded to 11 significant bits"),
    KnownImpact("environment.gpu_kernels*", Impact.BITS, "other kernels"),
    KnownImpact("environment.libraries.lm_eval", Impact.BITS, "scores change, weights do not", THREADS["SPIN 36"]),
    KnownImpact("environment.libraries.torch", Impact.BITS, "other kernels"),
    KnownImpact("environment.libraries.*", Impact.BITS, "not known until tried"),
    KnownImpact("environment.adapter*", Impact.BITS, "the libraries of an adapter: not known until tried"),
    KnownImpact("environment.cuda", Impact.BITS, "other kernels"),
    KnownImpact(
        "environment.threads", Impact.BITS, "sums may be split in another way; no bit changed where it was tried", MEASURED
    ),
    KnownImpact("environment.deterministic", Impact.BITS, "kernels may sum in the order in which threads arrive"),
    KnownImpact("environment.matmul_precision", Impact.BY_DESIGN, "products of float32 may be rounded to 11 or 8 significant bits"),
    KnownImpact("environment.source.commit", Impact.BITS, "other code"),
    KnownImpact("environment.source*", Impact.BITS, "uncommitted code"),
    KnownImpact("environment.lock.departures*", Impact.BITS, "a library other than the locked one"),
    KnownImpact("environment.lock.sha256", Impact.BITS, "other locked versions of some libraries"),
    KnownImpact("environment.image", Impact.BITS, "another operating system under the same libraries"),
    KnownImpact("environment.*", Impact.BITS, "not known until tried"),
    KnownImpact("segments", Impact.BITS, "resumed in a changed environment, so equal bits are not claimed"),
)
RANK = {impact: place for place, impact in enumerate(Impact)}
ABSENT = object()
# Recorded only where there is something to record, so that a run without it need not be of another version.
OPTIONAL_KEYS = (
    *("settings.methods.", "inputs.questions_sha256.", "inputs.suite_sha256", "inputs.dropout_set_to_zero"),
    "inputs.stop_token_ids",
    *("environment.lock.departures.", "environment.variables.", "scores."),
    *("settings.policy.adapter", "environment.adapter"),
)


def impact_of(key: str, recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> tuple[KnownImpact, int]:
    """What is known about a difference in `key` between two runs.

    Args:
        key: a dotted key, such as `settings.training.global_batch_size`.
        recorded: what each run recorded: its manifest, and the versions that measured its scores.

    Returns:
        The impact, and a rank that sorts differences: the lower, the more of the other differences it explains.
    """
    for place, known in enumerate(KNOWN_IMPACTS):
        if fnmatchcase(key, known.pattern):
            if _recorded_by_one_version_only(key, recorded):
                known = KnownImpact(known.pattern, Impact.BITS, "recorded in one of the two only: they are of different versions")
            elif reason := _why_unused(key, recorded):
                known = KnownImpact(known.pattern, Impact.NONE, reason)
            elif key == "settings.training.engine" and _rounds_differently(recorded):
                size = "with bfloat16, DeepSpeed keeps float32 weights and rounds in other places"
                known = KnownImpact(known.pattern, Impact.BY_DESIGN, size)
            return known, RANK[known.impact] * len(KNOWN_IMPACTS) + place
    impact = Impact.BY_DESIGN if key.startswith(("settings.", "inputs.")) else Impact.BITS
    return KnownImpact(key, impact, "nothing is known about it"), (RANK[impact] + 1) * len(KNOWN_IMPACTS) - 1


def _recorded_by_one_version_only(key: str, recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> bool:
    """Whether one run was made by a version that does not record this key. Recording it as empty is another matter."""
    if key.count(".") == 0 or key.startswith(OPTIONAL_KEYS):
        return False
    return any(_value_at(values, key.split(".")) is ABSENT for values in recorded)


def _value_at(tree: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return ABSENT
        tree = tree[name]
    return tree


def _rounds_differently(recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> bool:
    """Whether the engines of two runs round differently: only one is DeepSpeed, and weights or products are bfloat16."""
    settings = [values.get("settings") or {} for values in recorded]
    training = [each.get("training") or {} for each in settings]
    dtypes = {(each.get("policy") or {}).get("dtype") for each in settings} | {each.get("compute_dtype") for each in training}
    return "bfloat16" in dtypes and any(each.get("engine") == engines.REPLICATED.name for each in training)


def _why_unused(key: str, recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> str | None:
    """Why neither of these two runs uses the value of a key; None where one does."""
    settings = [values.get("settings") or {} for values in recorded]
    training = [each.get("training") or {} for each in settings]
    if key == "environment.libraries.deepspeed" and all(each.get("engine") == engines.REPLICATED.name for each in training):
        return "neither run uses DeepSpeed"
    used = [methods.get(str(values["method"])) for values in recorded if values.get("method") in methods.names()]
    if key in ("settings.selfplay.temperature", "settings.selfplay.top_p") and not any(method.uses_self_play for method in used):
        return "neither method samples self-play responses"
    templates = [(each.get("data") or {}).get("prompt_template") for each in settings]
    if key in ("inputs.chat_template_sha256", "settings.data.chat_template_date") and "chat" not in templates:
        return "neither run uses the chat template"
    recorded_kernels = [_value_at(values, ["environment", "kernels"]) is not ABSENT for values in recorded]
    if key.startswith("inputs.dropout_set_to_zero") and all(recorded_kernels):
        return "both runs were made by a version that trains without dropout"
    return None
