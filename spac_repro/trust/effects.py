"""What is known about a difference between two runs: whether it changes the numbers, the bits, or nothing, and by how much.

The table is in the order in which differences are worth telling: what comes first explains what comes after it. A key that no
pattern matches is judged by where it stands: a setting or an input changes the numbers by design, the rest may change bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from spac_repro import engines, methods


class Sort(StrEnum):
    """What a difference can do, the strongest first."""

    DESIGN = "changes the numbers by design"
    BITS = "may change bits"
    NOTHING = "cannot matter"


@dataclass(frozen=True)
class Effect:
    """What a difference in the keys that match `pattern` does, how much where that is known, and who saw it."""

    pattern: str
    sort: Sort
    size: str = ""
    source: str = ""


MEASURED = "docs/reproducibility.md"
PUBLIC = {
    "SPIN 12": "https://github.com/uclaml/SPIN/issues/12",
    "SPIN 36": "https://github.com/uclaml/SPIN/issues/36",
    "handbook 44": "https://github.com/huggingface/alignment-handbook/issues/44",
    "handbook 124": "https://github.com/huggingface/alignment-handbook/issues/124",
    "harness 1645": "https://github.com/EleutherAI/lm-evaluation-harness/issues/1645",
}

EFFECTS = (
    Effect("recipe", Sort.DESIGN, "another experiment"),
    Effect("method", Sort.DESIGN, "another loss"),
    Effect("settings_sha256", Sort.DESIGN, "other settings; the expected results tell their hash alone"),
    # What goes in
    Effect("settings.policy.revision", Sort.DESIGN, "another model under the same name", PUBLIC["SPIN 36"]),
    Effect("settings.policy.dtype", Sort.BITS, "every product is rounded elsewhere; bits change", MEASURED),
    Effect("settings.policy.attn_implementation", Sort.BITS, "another order of the same sums; bits change", MEASURED),
    Effect("settings.policy.*", Sort.DESIGN, "another model"),
    Effect("inputs.policy_sha256", Sort.DESIGN, "another model to begin with, whatever its name says", PUBLIC["SPIN 36"]),
    Effect("settings.data.*", Sort.DESIGN, "other preferences, or other tokens for the same ones", MEASURED),
    Effect("inputs.preferences", Sort.DESIGN, "another number of preferences"),
    Effect("inputs.preferences_sha256", Sort.DESIGN, "other preferences, or the same in another order", MEASURED),
    Effect("inputs.tokenizer_sha256", Sort.DESIGN, "other tokens for the same text"),
    Effect("inputs.chat_template_sha256", Sort.DESIGN, "another frame around every prompt, where the template is `chat`", MEASURED),
    Effect(
        "seed",
        Sort.DESIGN,
        "another start, other samples, another order; its spread is the unit in which noise is measured",
        MEASURED,
    ),
    Effect("settings.start.*", Sort.DESIGN, "another start"),
    # What is done
    Effect(
        "settings.selfplay.backend",
        Sort.DESIGN,
        "another sampler draws other responses; authors give it as a cause",
        PUBLIC["SPIN 36"],
    ),
    Effect("settings.selfplay.prompts_per_save", Sort.DESIGN, "every batch has a seed of its own, so other responses are drawn"),
    Effect(
        "settings.selfplay.decode_batch_size",
        Sort.DESIGN,
        "the draws of a batch come in another order, so other responses are drawn",
    ),
    Effect("settings.selfplay.*", Sort.DESIGN, "other responses are drawn", MEASURED),
    Effect("settings.methods.*", Sort.DESIGN, "another loss or step size", MEASURED),
    Effect(
        "settings.training.epochs_per_iteration",
        Sort.DESIGN,
        "another number of steps, on another learning-rate schedule",
        PUBLIC["SPIN 12"],
    ),
    Effect("settings.training.micro_batch*", Sort.BITS, "the same mean over the same examples, summed otherwise", MEASURED),
    Effect("settings.training.processes", Sort.BITS, "the same global batch, summed otherwise", PUBLIC["handbook 124"]),
    Effect("settings.training.engine", Sort.BITS, "the same global batch, summed and sharded otherwise", PUBLIC["handbook 124"]),
    Effect("settings.training.gradient_checkpointing", Sort.BITS, "activations are computed twice instead of kept"),
    Effect("settings.training.compute_dtype", Sort.BITS, "every product is rounded elsewhere"),
    Effect("settings.training.threads", Sort.BITS, "sums may be cut up otherwise; no bit changed where it was tried", MEASURED),
    Effect("settings.training.save_steps", Sort.NOTHING, "how often state is kept", MEASURED),
    Effect("settings.training.save_total_limit", Sort.NOTHING, "how much state is kept"),
    Effect("settings.training.global_batch_size", Sort.DESIGN, "fewer or more steps", PUBLIC["handbook 44"]),
    Effect("settings.training.*", Sort.DESIGN, "other steps"),
    # How it is measured
    Effect("inputs.questions_sha256*", Sort.DESIGN, "other questions: scores change, weights do not"),
    Effect("inputs.suite_sha256*", Sort.DESIGN, "other tasks: scores change, weights do not"),
    Effect(
        "scores.harness",
        Sort.BITS,
        "prompts and answers may be handled otherwise: scores change, weights do not",
        PUBLIC["SPIN 36"],
    ),
    Effect("scores.version.*", Sort.DESIGN, "another version of the task: scores change, weights do not"),
    Effect(
        "settings.evaluation.batch_size",
        Sort.BITS,
        "padding and rounding only; weights do not change. 0.04 points on HellaSwag for a 7B on a GPU",
        PUBLIC["harness 1645"],
    ),
    Effect("settings.evaluation.*", Sort.DESIGN, "another measurement: scores change, weights do not"),
    # Where it is done
    Effect("environment.gpus", Sort.BITS, "other kernels"),
    Effect("environment.platform", Sort.BITS, "other libraries and kernels"),
    Effect("environment.cpu", Sort.BITS, "another instruction set may choose other kernels"),
    Effect("environment.libraries.lm_eval", Sort.BITS, "scores change, weights do not", PUBLIC["SPIN 36"]),
    Effect("environment.libraries.torch", Sort.BITS, "other kernels"),
    Effect("environment.libraries.*", Sort.BITS, "unknown until tried"),
    Effect("environment.cuda", Sort.BITS, "other kernels"),
    Effect("environment.threads", Sort.BITS, "sums may be cut up otherwise; no bit changed where it was tried", MEASURED),
    Effect("environment.deterministic", Sort.BITS, "kernels may add in the order in which threads come"),
    Effect("environment.matmul_precision", Sort.BITS, "products may be rounded to fewer bits"),
    Effect("environment.source.commit", Sort.BITS, "other code; `git diff` between the two says which"),
    Effect("environment.source*", Sort.BITS, "code that no commit holds"),
    Effect("environment.lock.departures*", Sort.BITS, "a library other than the locked one"),
    Effect("environment.lock.sha256", Sort.BITS, "other locked versions, of the libraries named here or of smaller ones"),
    Effect("environment.image", Sort.BITS, "another system below the same libraries"),
    Effect("environment.*", Sort.BITS, "unknown until tried"),
    Effect("segments", Sort.BITS, "carried on in a changed environment, so equal bits are not claimed"),
)
RANK = {sort: place for place, sort in enumerate(Sort)}


ABSENT = object()


def effect_of(key: str, recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> tuple[Effect, int]:
    """What is known about a difference in `key` between two runs, and its rank: the lower, the more it tells.

    `recorded` is what stands in the runs' manifests, and what measured their scores.
    """
    for place, effect in enumerate(EFFECTS):
        if fnmatchcase(key, effect.pattern):
            if _unrecorded(key, recorded):
                effect = Effect(effect.pattern, Sort.BITS, "recorded in one of the two only: they are of different versions")
            elif reason := _idle(key, recorded):
                effect = Effect(effect.pattern, Sort.NOTHING, reason)
            return effect, RANK[effect.sort] * len(EFFECTS) + place
    sort = Sort.DESIGN if key.startswith(("settings.", "inputs.")) else Sort.BITS
    return Effect(key, sort, "nothing is known about it"), (RANK[sort] + 1) * len(EFFECTS) - 1


def _unrecorded(key: str, recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> bool:
    """Whether one run was made by a version that does not record this, which is another thing than recording none of it."""
    if key.count(".") == 0 or key.startswith(
        ("settings.methods.", "inputs.questions_sha256.", "inputs.suite_sha256", "environment.lock.departures.", "scores.")
    ):
        return False
    return any(_at(its, key.split(".")) is ABSENT for its in recorded)


def _at(tree: Any, path: list[str]) -> Any:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return ABSENT
        tree = tree[name]
    return tree


def _idle(key: str, recorded: tuple[Mapping[str, Any], Mapping[str, Any]]) -> str | None:
    """Why a difference has nothing to act on in these two runs."""
    settings = [its.get("settings") or {} for its in recorded]
    training = [each.get("training") or {} for each in settings]
    if key == "environment.libraries.deepspeed" and all(each.get("engine") == engines.REPLICATED.name for each in training):
        return "neither run uses DeepSpeed"
    used = [methods.get(str(its["method"])) for its in recorded if its.get("method") in methods.names()]
    if key in ("settings.selfplay.temperature", "settings.selfplay.top_p") and not any(method.uses_self_play for method in used):
        return "neither method draws self-play responses"
    templates = [(each.get("data") or {}).get("prompt_template") for each in settings]
    if key == "inputs.chat_template_sha256" and "chat" not in templates:
        return "neither run uses the chat template"
    return None
