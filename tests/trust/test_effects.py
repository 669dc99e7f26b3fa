"""What is known about a difference: every key has an effect, and every effect a key."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from spac_repro.trust.effects import EFFECTS, Sort, effect_of


@given(st.sampled_from(["settings", "inputs", "environment", "segments"]), st.text(min_size=1, alphabet="abc."))
def test_every_key_has_an_effect(part: str, key: str) -> None:
    effect, rank = effect_of(f"{part}.{key}", ({}, {}))
    assert effect.sort in Sort
    assert rank >= 0


def test_every_effect_can_be_reached() -> None:
    for place, effect in enumerate(EFFECTS):
        key = effect.pattern.replace("*", ".x" if effect.pattern.endswith("source*") else "x")
        first = next(i for i, other in enumerate(EFFECTS) if fnmatchcase(key, other.pattern))
        assert first == place, f"{effect.pattern} is hidden behind {EFFECTS[first].pattern}"


def test_another_file_of_a_suite_of_one_s_own_is_by_design() -> None:
    """It is recorded for suites of one's own only: a run without it is not of another version."""
    own, packaged = {"inputs": {"suite_sha256": {"a.yaml": "1"}}}, {"inputs": {}}
    for key in ("inputs.suite_sha256", "inputs.suite_sha256.a.yaml", "inputs.suite_sha256.b.yaml"):
        assert effect_of(key, (own, packaged))[0].sort is Sort.DESIGN
