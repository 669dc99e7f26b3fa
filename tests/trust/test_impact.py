"""What is known about a difference: every key has an impact, and every entry of the table can apply."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from spac_repro.trust.impact import KNOWN_IMPACTS, Impact, impact_of


@given(st.sampled_from(["settings", "inputs", "environment", "segments"]), st.text(min_size=1, alphabet="abc."))
def test_every_key_has_an_impact(part: str, key: str) -> None:
    known, rank = impact_of(f"{part}.{key}", ({}, {}))
    assert known.impact in Impact
    assert rank >= 0


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
