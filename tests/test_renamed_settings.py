"""Settings that version 0.2 renamed: its recipes refuse the old names, and runs of version 0.1 are read under the new ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.recipe import settings_digest
from spac_repro.renamed_settings import RENAMED, new_name, upgrade
from spac_repro.runs import manifest

# The digests that expected_results/tiny.yaml had in version 0.1, for the settings of `tiny` under their old names.
DIGESTS_OF_0_1 = {
    "spac": "097f0783e2a55c01b6c31828f1ee7b3c11eba3f43e5f130893ac5fcc46b1227c",
    "dpo": "d4248a2032b4f95dfdf5d035de90d38d5c4e2330f1eaf98c830cd7b26d457b1a",
    "ipo": "45f34916e2c2d7b59a402538f213bcd25a4abeede77fd45e46c90e2dfad063d2",
    "spin": "b8b5d76063828b3df1d0fe86c89a5fddd53764d2eb03208278fd97e441b15c3e",
    "sft": "4a5ffc8a0af04e99a875befdfd6a9ca64740a1bfadcf602d9c59933e5dd8fead",
}

# What was tuned anew in version 0.3.
OF_0_1 = {"spac": ["methods.spac.learning_rate=1e-4"], "sft": ["methods.sft.learning_rate=3e-4"]}


def same_settings(method: str) -> Any:
    """`tiny` with the settings that it had in version 0.1, under the names of today."""
    return recipes.load("tiny", method=method, overrides=OF_0_1.get(method, []))


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value for name, node in tree.items() for key, value in leaves(node, f"{prefix}.{name}" if prefix else name).items()
    }


def settings_of_0_1(method: str) -> dict[str, Any]:
    """The settings of `tiny` as a manifest of version 0.1 has them, by the table read backwards."""
    old_names = {new: old for old, new in RENAMED.items()}
    old: dict[str, Any] = {}
    for key, value in leaves(same_settings(method).settings()).items():
        shared = key.replace(f"methods.{method}.", "methods.*.")
        name = old_names.get(key) or old_names.get(shared) or shared
        name = name.replace(f"methods.{method}.", "objective.").replace("methods.*.", "objective.")
        *groups, leaf = name.split(".")
        node = old
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return old


def manifest_of_0_1(method: str, **changes: Any) -> dict[str, Any]:
    settings = settings_of_0_1(method)
    return {
        "schema": 1,
        "recipe": "tiny",
        "method": method,
        "seed": 0,
        "settings": settings,
        "settings_sha256": settings_digest(settings),
        "provenance": {"data.pairs": {"mark": "assumed", "why": "w"}, f"methods.{method}.beta": {"mark": "tested", "why": ""}},
        "inputs": {},
        "environment": {},
        **changes,
    }


def test_new_names_are_settings_and_old_ones_are_not():
    known = leaves(recipes.load("tiny").recipe.model_dump(mode="json"))
    known |= {key.replace("methods.spac", "methods.*"): None for key in known if key.startswith("methods.spac.")}
    groups = {key.split(".")[0] for key in known}
    for old, new in RENAMED.items():
        assert new in known or new in groups, new
        assert old not in known, old
        assert old not in groups, old


@pytest.mark.parametrize("method", DIGESTS_OF_0_1)
def test_the_settings_of_tiny_are_those_of_0_1_under_new_names(method):
    """So rows and runs of version 0.1 hold for that recipe of today."""
    old = settings_of_0_1(method)
    assert settings_digest(old) == DIGESTS_OF_0_1[method]
    assert upgrade(old, method) == same_settings(method).settings()


@pytest.mark.parametrize("method", DIGESTS_OF_0_1)
def test_a_manifest_of_0_1_is_the_run_of_today(tmp_path, method):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest_of_0_1(method)))
    found, today = manifest.read(path), same_settings(method)
    assert found.settings == today.settings()
    assert found.settings_sha256 == today.settings_sha256
    assert found.schema_version == manifest.SCHEMA
    assert {"data.max_pairs", f"methods.{method}.beta"} == found.provenance.keys()


def test_an_edited_manifest_of_0_1_stays_inconsistent(tmp_path):
    path = tmp_path / "manifest.json"
    edited = manifest_of_0_1("spac")
    edited["settings"]["training"]["epochs"] = 7
    path.write_text(json.dumps(edited))
    found = manifest.read(path)
    assert found.settings["training"]["epochs_per_iteration"] == 7
    assert found.settings_sha256 == DIGESTS_OF_0_1["spac"] != settings_digest(found.settings)


def test_a_setting_under_both_names_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    doubled = manifest_of_0_1("spac")
    doubled["settings"]["supervised_start"] = 5
    doubled["settings"] = dict(reversed(doubled["settings"].items()))
    path.write_text(json.dumps(doubled))
    with pytest.raises(UserError, match="it stands under two names"):
        manifest.read(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("objective.beta", "methods.*.beta"),
        ("objective.critic", "methods.*.critic_loss"),
        ("objective.last_beta", "methods.*.last_iteration_beta"),
        ("methods.spac.baseline", "methods.spac.critic_baseline"),
        ("methods.dpo.reference", "methods.dpo.reference_policy"),
        ("start.warmup", "supervised_start.warmup_ratio"),
        ("selfplay.at_once", "selfplay.decode_batch_size"),
    ],
)
def test_an_old_name_in_set_is_refused_with_the_new_one(old, new):
    with pytest.raises(UserError, match=rf"renamed to {new} in version 0\.2".replace("*", r"\*")):
        recipes.load("tiny", overrides=[f"{old}=1"])


def test_an_old_name_in_a_recipe_is_refused_with_the_new_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nsummary: s\ndata:\n  longest_prompt: {value: 3, from: assumed}\n")
    with pytest.raises(UserError, match=r"line 4: data\.longest_prompt: renamed to data\.max_prompt_tokens in version 0\.2"):
        recipes.load(str(file))


@pytest.mark.parametrize("key", ["data.name", "methods.spac.beta", "training.processes", "methods.mine.critic", "nothing", ""])
def test_other_keys_were_not_renamed(key):
    assert new_name(key) is None


def test_the_changelog_has_the_whole_table():
    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in RENAMED.items():
        assert f"| `{old}` | `{new}` |" in text
