"""The environment of a rehearsal beside another one."""

from types import SimpleNamespace
from typing import Any, cast

from spac_repro.rehearsal import document


def test_a_dry_run_that_has_not_switched_determinism_on_is_no_other_environment():
    rehearsal = cast(Any, SimpleNamespace(environment={"deterministic": True, "cpu": "a", "libraries": {"torch": "1"}}))
    assert document.differences(rehearsal, {"deterministic": False, "cpu": "a", "libraries": {"torch": "1"}}) == []
    assert document.differences(rehearsal, {"deterministic": False, "cpu": "b", "libraries": {"torch": "1"}}) == ["cpu"]
