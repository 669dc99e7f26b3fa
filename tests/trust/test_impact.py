"""What is known about a difference: every key has an impact, and every entry of the table can apply."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro import recipes
from spac_repro.trust.impact import KNOWN_IMPACTS, Impact, impact_of


@given(st.sampled_from(["settings", "inputs", "environment", "segments"]), st.text(min_size=1, alphabet="abc."))
def test_every_key_has_an_impact(part: str, key: str) -> None:
    known, rank = impact_of(f"{part}.{key}", ({}, {}))
    assert known.impact in Impact
    assert rank >= 0


def test_every_entry_of_a_setting_is_about_a_setting() -> None:
    """A renamed setting would otherwise lose its entry without a word."""
    run = recipes.load("tiny", overrides=[f"policy.adapter.{key}" for key in ("rank=1", "alpha=1", "targets=[q_proj]")])
    known = {f"settings.{key}" for key in recipes.leaf_keys(run.recipe.model_dump(mode="json"))}
    patterns = [known.pattern for known in KNOWN_IMPACTS if known.pattern.startswith("settings.")]
    assert [pattern for pattern in patterns if not any(fnmatchcase(key, pattern) for key in known)] == []
    assert all(any(fnmatchcase(key, pattern) for pattern in patterns) for key in known if key.count(".") > 1)


def test_every_entry_can_apply() -> None:
    for place, known in enumerate(KNOWN_IMPACTS):
        key = known.pattern.replace("*", ".x" if known.pattern.endswith("source*") else "x")
        first = next(i for i, other in enumerate(KNOWN_IMPACTS) if fnmatchcase(key, other.pattern))
        assert first == place, f"{known.pattern} is hidden behind {KNOWN_IMPACTS[first].pattern}"


def test_another_file_of_a_suite_of_one_s_own_is_by_design() -> None:
    """It is recorded for suites of one's own only: a run without it is not of another version."""
    own, packaged = {"inputs": {"suite_sha256": {"a.yaml": "1"}}}, {"inputs": {}}
    for key in ("inputs.suite_sha256", "inputs.suite_sha256.a.yaml", "inputs.suite_sha256.b.yaml"):
        assert impact_of(key, (own, packaged))[0].impact is Impact.BY_DESIGN


def recorded(engine: str = "accelerate", dtype: str = "float32", compute: str = "float32", **more: object) -> dict[str, object]:
    training = {"engine": engine, "compute_dtype": compute}
    return {"settings": {"policy": {"dtype": dtype}, "training": training, "data": {"prompt_template": "chat"}}, **more}


def test_another_precision_changes_the_numbers_and_not_only_bits() -> None:
    for key in ("settings.policy.dtype", "settings.training.compute_dtype"):
        assert impact_of(key, (recorded(), recorded(dtype="bfloat16", compute="bfloat16")))[0].impact is Impact.BY_DESIGN
    kernels = {"environment": {"matmul_precision": "highest", "gpu_kernels": {"tf32": {"matmul": False}}}}
    for key in ("environment.matmul_precision", "environment.gpu_kernels.tf32.matmul"):
        assert impact_of(key, (kernels, kernels))[0].impact is Impact.BY_DESIGN


@pytest.mark.parametrize(
    ("a", "b", "impact"),
    [
        (recorded(), recorded("deepspeed-zero2"), Impact.BITS),
        (recorded(dtype="bfloat16"), recorded("deepspeed-zero2", dtype="bfloat16"), Impact.BY_DESIGN),
        (recorded(compute="bfloat16"), recorded("deepspeed-zero3", compute="bfloat16"), Impact.BY_DESIGN),
        (recorded("deepspeed-zero2", dtype="bfloat16"), recorded("deepspeed-zero3", dtype="bfloat16"), Impact.BITS),
    ],
)
def test_another_engine_changes_bits_only_where_both_round_in_the_same_places(
    a: dict[str, object], b: dict[str, object], impact: Impact
) -> None:
    assert impact_of("settings.training.engine", (a, b))[0].impact is impact


def test_what_computes_is_named_with_its_impact() -> None:
    environment = {"kernels": {"cpu_capability": "AVX2", "libc": "glibc 2.36"}, "processor": {"family": "25"}, "variables": {}}
    both = (recorded(environment=environment), recorded(environment=environment))
    for key in ("kernels.cpu_capability", "variables.MKL_CBWR", "processor.family", "kernels.libc"):
        known = impact_of(f"environment.{key}", both)[0]
        assert known.impact is Impact.BITS
        assert "not known" not in known.size
        assert "different versions" not in known.size
    older = recorded(environment={"cpu": "x"})
    assert "different versions" in impact_of("environment.kernels", (both[0], older))[0].size


def test_dropout_that_is_set_to_zero_matters_only_to_a_version_that_trained_with_it() -> None:
    new, old = recorded(environment={"kernels": {}}), recorded(environment={})
    for key in ("inputs.dropout_set_to_zero", "inputs.dropout_set_to_zero.attn_pdrop"):
        assert impact_of(key, (new, new))[0].impact is Impact.NONE
        assert impact_of(key, (old, new))[0].impact is Impact.BY_DESIGN
