"""`compare` on folders made by hand: what it refuses, how it walks weights, what it calls noise."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.runs.manifest import SCHEMA
from spac_repro.trust import comparison, first_difference
from spac_repro.trust.comparison import compare
from spac_repro.trust.effects import EFFECTS, Sort, effect_of

SETTINGS: dict[str, Any] = {
    "method": "spac",
    "name": "tiny",
    "objective": {"beta": 1.0, "learning_rate": 3e-5},
    "policy": {"dtype": "float32"},
    "data": {"template": "plain"},
    "selfplay": {"temperature": 1.0},
    "training": {"engine": "accelerate", "epochs": 1},
}


def make(folder: Path, *, seed: int = 0, scores: dict[int, float] | None = None, n: int = 100, **changes: Any) -> Path:
    """A run folder with a manifest and a score for each iteration given."""
    settings = json.loads(json.dumps(SETTINGS))
    inputs: dict[str, Any] = {"preferences": 2, "preferences_sha256": "a" * 64, "tokenizer_sha256": "b" * 64}
    environment: dict[str, Any] = {"threads": 1, "cpu": "x", "libraries": {"torch": "2.13.0", "deepspeed": "0.19.8"}}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "recipe": "tiny",
        "method": "spac",
        "seed": seed,
        "settings": settings,
        "settings_sha256": "same",
        "inputs": inputs,
        "environment": environment,
        "segments": [],
    }
    for key, value in changes.items():
        *groups, leaf = key.split("__")
        node = manifest
        for group in groups:
            node = node[group]
        node[leaf] = value
    files.write_json(folder / "manifest.json", manifest)
    for t, value in (scores or {}).items():
        score = {"task": "gold", "metric": "reward", "value": value, "stderr": 0.01, "n": n, "version": "1"}
        files.write_json(folder / f"iteration-{t}" / "scores.json", [score])
    if scores:
        files.write_json(folder / "results.json", {"complete": True, "harness": "lm_eval 0.4.13", "weights_sha256": "w"})
    return folder


# What differs


def test_what_tells_most_comes_first(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", environment__cpu="y", seed=1, settings__objective__beta=2.0, inputs__preferences_sha256="c" * 64)
    keys = [difference.key for difference in compare(a, b).differences]
    assert keys == ["inputs.preferences_sha256", "seed", "settings.objective.beta", "environment.cpu"]


def test_a_library_that_neither_run_uses_cannot_matter(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b", environment__libraries={"torch": "2.13.0", "deepspeed": "1"})
    (difference,) = compare(a, b).differences
    assert difference.effect.sort is Sort.NOTHING


def test_a_key_that_an_older_version_did_not_record_is_said_to_be_that(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    its = json.loads((b / "manifest.json").read_text())
    del its["inputs"]["tokenizer_sha256"]
    its["settings"]["training"]["world_size"] = 2
    files.write_json(b / "manifest.json", its)
    for difference in compare(a, b).differences:
        assert "different versions" in difference.effect.size


@given(st.sampled_from(["settings", "inputs", "environment", "segments"]), st.text(min_size=1, alphabet="abc."))
def test_every_key_has_an_effect(part: str, key: str) -> None:
    effect, rank = effect_of(f"{part}.{key}", ({}, {}))
    assert effect.sort in Sort
    assert rank >= 0


def test_every_effect_can_be_reached() -> None:
    for place, effect in enumerate(EFFECTS):
        key = effect.pattern.replace("*", ".x" if effect.pattern.endswith("source*") else "x")
        first = next(i for i, other in enumerate(EFFECTS) if comparison_matches(key, other.pattern))
        assert first == place, f"{effect.pattern} is hidden behind {EFFECTS[first].pattern}"


def comparison_matches(key: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(key, pattern)


# Bad input


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    newer = make(tmp_path / "newer", schema=SCHEMA + 1)
    half = make(tmp_path / "half")
    (half / "manifest.json").write_text('{"schema": 1, "recipe": "tiny"')
    lacking = make(tmp_path / "lacking")
    (lacking / "manifest.json").write_text('{"schema": 1, "recipe": "tiny"}')
    for folder, what in (
        (tmp_path / "none", "no such run folder"),
        (tmp_path / "empty", "has no manifest.json"),
        (newer, "of a newer version of spac-repro"),
        (half, "not JSON"),
        (lacking, "half a manifest: no 'method'"),
    ):
        for pair in ((a, folder), (folder, a)):
            with pytest.raises(UserError, match=what):
                compare(*pair)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", scores={0: 0.5}), make(tmp_path / "b", scores={0: 0.5})
    (b / "iteration-0" / "scores.json").write_text("{}")
    with pytest.raises(UserError, match="not a list of scores"):
        compare(a, b)
    b = make(tmp_path / "c")
    for folder in (a, b):
        (folder / "iteration-1").mkdir(exist_ok=True)
        (folder / "iteration-1" / "selfplay.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"selfplay\.parquet is damaged"):
        compare(a, b)


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    a = make(tmp_path / "a", scores={0: 0.5})
    b = make(tmp_path / "b", recipe="zephyr-7b", settings__policy={"dtype": "bfloat16"}, inputs__preferences_sha256="z" * 64)
    with pytest.raises(UserError, match="there is nothing to compare"):
        compare(a, b)
    assert compare(a, make(tmp_path / "c", recipe="other")).differences[0].key == "recipe"


def test_an_unfinished_run_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", scores={0: 0.5, 1: 0.6}), make(tmp_path / "b")
    lines = [{"iteration": 0, "step": step, "loss": 1.0 / step} for step in range(1, 5)]
    (a / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (b / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]) + '{"iteration": 0, "st')
    found = compare(a, b)
    assert found.walk.training is None
    assert found.walk.equal == "step 2 of iteration 0"
    assert "B has no step 3 of iteration 0" in found.walk.unfinished


# Where they first part


def weights(folder: Path, tensors: dict[str, Any], shards: int = 1) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    for shard in range(shards):
        save_file({name: tensors[name] for name in names[shard::shards]}, folder / f"model-{shard}.safetensors")
    return folder


def tensors() -> dict[str, Any]:
    names = ("model.embed_tokens.weight", "model.layers.2.w", "model.layers.10.w", "model.norm.weight", "lm_head.weight")
    return {name: np.arange(12, dtype=np.float32).reshape(3, 4) + place for place, name in enumerate(names)}


def test_the_first_tensor_in_the_order_of_a_forward_pass(tmp_path: Path) -> None:
    changed = tensors()
    changed["model.layers.10.w"][1, 2] += 0.5
    changed["lm_head.weight"][:] = 0
    a, b = weights(tmp_path / "a", tensors()), weights(tmp_path / "b", changed, shards=3)
    parting, _ = first_difference.first_tensor(a, b, iteration=3)
    assert parting is not None
    assert (parting.place, parting.what, parting.a, parting.b) == ("model.layers.10.w", "element 6", "8", "8.5")
    assert parting.note == "1 of 12 elements differ, by 0.5 at most"


def test_sharding_is_no_difference_and_equal_hashes_are_not_read(tmp_path: Path) -> None:
    a, b = weights(tmp_path / "a", tensors()), weights(tmp_path / "b", tensors(), shards=2)
    assert first_difference.first_tensor(a, b, iteration=0) == (None, 2 * 5 * 48)
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    for folder in (one, other):
        weights(folder / "iteration-0" / "policy", tensors())
        files.write_json(folder / "iteration-0" / "policy" / "fingerprint.json", {"weights_sha256": "h"})
    assert compare(one, other).walk.read == 0


def test_a_missing_or_reshaped_tensor_is_named(tmp_path: Path) -> None:
    fewer, other = tensors(), tensors()
    del fewer["model.norm.weight"]
    other["model.norm.weight"] = other["model.norm.weight"].reshape(4, 3)
    a = weights(tmp_path / "a", tensors())
    missing, _ = first_difference.first_tensor(a, weights(tmp_path / "b", fewer), iteration=0)
    assert missing is not None
    assert (missing.place, missing.a, missing.b) == ("model.norm.weight", "there", "absent")
    reshaped, _ = first_difference.first_tensor(a, weights(tmp_path / "c", other), iteration=0)
    assert reshaped is not None
    assert (reshaped.a, reshaped.b) == ("F32 [3, 4]", "F32 [4, 3]")


def test_half_precision_is_read_as_what_it_is(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for name, value in (("a", 1.0), ("b", 1.0078125)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((3,), value, dtype=torch.bfloat16)}, tmp_path / name / "model.safetensors")
    parting, _ = first_difference.first_tensor(tmp_path / "a", tmp_path / "b", iteration=0)
    assert parting is not None
    assert (parting.a, parting.b) == ("1", "1.0078125")


def test_cut_off_weights_are_refused(tmp_path: Path) -> None:
    a, b = weights(tmp_path / "a", tensors()), weights(tmp_path / "b", tensors())
    file = b / "model-0.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="cut off"):
        first_difference.first_tensor(a, b, iteration=0)


@given(st.integers(0, 99), st.floats(-2, 2, allow_nan=False).filter(lambda x: abs(x) > 1e-3))
def test_any_changed_element_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, by: float) -> None:
    folder = tmp_path_factory.mktemp("w")
    values = np.zeros(100, np.float64)
    changed = values.copy()
    changed[place] += by
    a, b = weights(folder / "a", {"w": values}), weights(folder / "b", {"w": changed})
    parting, _ = first_difference.first_tensor(a, b, iteration=0)
    assert parting is not None
    assert parting.what == f"element {place}"
    shutil.rmtree(folder)


def test_a_score_that_parts_before_the_training_does_is_a_finding_of_its_own(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", scores={0: 0.5, 1: 0.5}), make(tmp_path / "b", scores={0: 0.4, 1: 0.5})
    for folder, loss in ((a, 1.0), (b, 2.0)):
        (folder / "metrics.jsonl").write_text(json.dumps({"iteration": 1, "step": 1, "loss": loss}) + "\n")
    walk = compare(a, b).walk
    assert walk.training is not None
    assert walk.scores is not None
    assert (walk.training.iteration, walk.scores.iteration) == (1, 0)


# How much it matters


def test_noise_is_the_spread_over_neighbouring_seeds(tmp_path: Path) -> None:
    for seed, value in enumerate((0.50, 0.52, 0.48, 0.51, 0.49, 0.50)):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: value}, n=1000)
    within = make(tmp_path / "elsewhere" / "b", scores={1: 0.53}, n=1000, settings_sha256="other")
    beyond = make(tmp_path / "elsewhere" / "c", scores={1: 0.90}, n=1000, settings_sha256="other")
    found = compare(tmp_path / "seed-0", within)
    assert (found.seeds, found.exit_code) == (6, 0)
    assert found.changes[0].words.startswith("within noise")
    found = compare(tmp_path / "seed-0", beyond)
    assert found.exit_code == 1
    assert "1 of them by more than two seeds would" in found.summary[2]


def test_two_seeds_are_beyond_noise_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(4000):
        values = rng.normal(0.5, 0.1, 7)
        _, limit = comparison._noise((float(np.std(values[:5], ddof=1)), 4), 10**6, 1)
        beyond += abs(values[5] - values[6]) > (limit or 0)
    assert 0.003 < beyond / 4000 < 0.02  # 0.01 is promised


def test_without_seeds_nothing_is_called_noise(tmp_path: Path) -> None:
    a, b = make(tmp_path / "x" / "a", scores={1: 0.5}), make(tmp_path / "y" / "b", scores={1: 0.9})
    found = compare(a, b)
    assert found.changes[0].beyond is None
    assert found.exit_code == 0
    assert "--seeds" in found.summary[2]


def test_other_questions_are_not_held_against_each_other(tmp_path: Path) -> None:
    for seed in range(4):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.5})
    found = compare(tmp_path / "seed-0", make(tmp_path / "e" / "b", scores={1: 0.9}, n=7))
    assert found.changes[0].words == "other questions: 100 and 7"
    assert found.exit_code == 0


def test_a_spread_is_at_least_one_item(tmp_path: Path) -> None:
    for seed in range(4):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.25}, n=4)
    found = compare(tmp_path / "seed-0", make(tmp_path / "e" / "b", scores={1: 0.5}, n=4))
    assert found.changes[0].beyond is False


# Against expected results


def expected(path: Path, **more: Any) -> Path:
    import yaml

    source = {
        "kind": "measured",
        "commit": "c0ffee",
        "lock_sha256": "l",
        "hardware": "a machine",
        "date": "2026-11-23",
        "seeds": [1, 2, 3, 4],
        "command": "spac-repro train",
    }
    row = {
        "source": "ours",
        "method": "spac",
        "iteration": 1,
        "task": "gold",
        "metric": "reward",
        "value": 0.8,
        "seeds": 4,
        "sd": 0.01,
    }
    path.write_text(yaml.safe_dump({"recipe": "tiny", "sources": {"ours": source}, "rows": [row], **more}))
    return path


def test_a_run_is_compared_with_expected_results(tmp_path: Path) -> None:
    run = make(tmp_path / "a", scores={1: 0.5}, environment__source={"commit": "beef", "changed": False})
    found = comparison.compare_expected(run, expected(tmp_path / "tiny.yaml"))
    assert found.exit_code == 1
    assert found.differences[0].key == "environment.cpu"
    assert {difference.key for difference in found.differences} >= {"environment.source.commit", "environment.lock.sha256"}
    assert found.as_json()["summary"]["where"] == "not known"
    with pytest.raises(UserError, match="is about recipe other"):
        comparison.compare_expected(run, expected(tmp_path / "other.yaml", recipe="other"))


def test_a_comparison_is_json(tmp_path: Path) -> None:
    found = compare(make(tmp_path / "a", scores={1: 0.5}), make(tmp_path / "b", scores={1: 0.6}))
    assert json.loads(json.dumps(found.as_json()))["summary"]["what"] == "nothing that is recorded differs"
