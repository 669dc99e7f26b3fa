"""The settings that version 0.2 renamed.

Manifests of version 0.1 are read with this table, so that its runs can be verified, compared and repeated. Recipes, sweeps and
`--set` refuse an old name, and say the new one.
"""

from collections.abc import Mapping
from typing import Any

from spac_repro.errors import UserError

# Dotted key in version 0.1 -> key now. `methods.*` stands for every method.
RENAMED = {
    "policy.parameters": "policy.num_parameters",
    "policy.attention": "policy.attn_implementation",
    "policy.architecture.layers": "policy.architecture.num_hidden_layers",
    "policy.architecture.heads": "policy.architecture.num_attention_heads",
    "policy.architecture.key_value_heads": "policy.architecture.num_key_value_heads",
    "policy.architecture.longest_sequence": "policy.architecture.max_position_embeddings",
    "data.pairs": "data.max_pairs",
    "data.template": "data.prompt_template",
    "data.longest_prompt": "data.max_prompt_tokens",
    "data.longest_response": "data.max_response_tokens",
    "data.world.right": "data.world.correct",
    "data.world.cut_off": "data.world.truncated",
    "start": "supervised_start",
    "start.demonstrations": "supervised_start.num_demonstrations",
    "start.epochs": "supervised_start.epochs",
    "start.batch_size": "supervised_start.global_batch_size",
    "start.few_shot_share": "supervised_start.few_shot_fraction",
    "start.learning_rate": "supervised_start.learning_rate",
    "start.warmup": "supervised_start.warmup_ratio",
    "start.weight_decay": "supervised_start.weight_decay",
    "selfplay.batch_size": "selfplay.prompts_per_seed",
    "selfplay.at_once": "selfplay.decode_batch_size",
    "selfplay.generator": "selfplay.backend",
    "methods.*.last_learning_rate": "methods.*.last_iteration_learning_rate",
    "methods.*.last_beta": "methods.*.last_iteration_beta",
    "methods.*.reference": "methods.*.reference_policy",
    "methods.spac.critic": "methods.spac.critic_loss",
    "methods.spac.baseline": "methods.spac.critic_baseline",
    "training.epochs": "training.epochs_per_iteration",
    "training.batch_size": "training.global_batch_size",
    "training.schedule": "training.lr_scheduler_type",
    "training.warmup": "training.warmup_ratio",
    "training.precision": "training.compute_dtype",
    "training.checkpoint_every": "training.save_steps",
    "training.checkpoints_kept": "training.save_total_limit",
    "evaluation.gold_samples": "evaluation.gold_samples_per_prompt",
}


def new_name(key: str) -> str | None:
    """The present key of a setting of version 0.1, or None where it was not renamed.

    The settings of the run's own method were `objective.*` in manifests and in `--set`; they are `methods.*.*` now.
    """
    group, _, rest = key.partition(".")
    if group == "objective":
        own = f"methods.*.{rest}".removesuffix(".")
        of_spac = RENAMED.get(f"methods.spac.{rest}", own)
        return new_name(own) or of_spac.replace("spac", "*")
    if key in RENAMED:
        return RENAMED[key]
    method, _, setting = rest.partition(".")
    shared = RENAMED.get(f"methods.*.{setting}") if group == "methods" else None
    return shared.replace("*", method) if shared else None


def upgrade(settings: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Rename the settings of a manifest of version 0.1. Keys that this version does not know are kept.

    Raises:
        UserError: a setting stands under its old and its new name.
    """
    new: dict[str, Any] = {}
    for key, value in _leaves(settings):
        *groups, leaf = present_key(key, method).split(".")
        node = new
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise UserError(f"settings.{key}: it stands under two names; the manifest was changed by hand")
        node[leaf] = value
    return new


def present_key(key: str, method: str) -> str:
    """The present key of any setting of a run of `method`, renamed or not."""
    if key.partition(".")[0] == "objective":
        key = key.replace("objective", f"methods.{method}", 1)
    return new_name(key) or key


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The dotted keys of a tree and their values. An empty group is a value."""
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found.extend(_leaves(value, f"{prefix}{name}."))
        else:
            found.append((f"{prefix}{name}", value))
    return found
