"""`compare` on folders made by hand: what it refuses, and what it names first."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.runs.manifest import SCHEMA
from spac_repro.trust import comparison
from spac_repro.trust.comparison import compare
from spac_repro.trust.impact import Impact

Make = Callable[..., Path]


# What differs


def test_what_tells_most_comes_first(make: Make, tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", environment__cpu="y", seed=1, settings__methods__spac__beta=2.0, inputs__preferences_sha256="c" * 64)
    keys = [difference.key for difference in compare(a, b).differences]
    assert keys == ["inputs.preferences_sha256", "seed", "settings.methods.spac.beta", "environment.cpu"]


def test_another_protocol_is_named_first_and_its_scores_are_not_judged(make: Make, tmp_path: Path) -> None:
    changes = {"environment__cpu": "y", "inputs__preferences_sha256": "c" * 64}
    current: dict[str, Any] = {"settings__evaluation": {"suite": "openllm"}}
    others = [make(tmp_path / f"seed-{seed}", seed=seed, scores={0: 0.5 + seed / 1000}, **current) for seed in range(2, 6)]
    a = make(tmp_path / "a", scores={0: 0.5}, **current)
    b = make(tmp_path / "b", scores={0: 0.9}, settings__evaluation={"suite": "openllm", "protocol": "v0.4.0-spin"}, **changes)
    found = compare(a, b, others)
    assert found.differences[0].key == "settings.evaluation.protocol"
    assert (found.differences[0].a, found.differences[0].b) == ("current", "v0.4.0-spin")
    (change,) = found.score_differences
    assert change.in_words == "other protocols: current and v0.4.0-spin"
    assert found.beyond_noise is None
    same = compare(a, make(tmp_path / "c", scores={0: 0.9}, **current), others)
    assert same.beyond_noise


def test_a_library_that_neither_run_uses_cannot_matter(make: Make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b", environment__libraries={"torch": "2.13.0", "deepspeed": "1"})
    (difference,) = compare(a, b).differences
    assert difference.known.impact is Impact.NONE


def test_a_key_that_an_older_version_did_not_record_is_said_to_be_that(make: Make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    its = json.loads((b / "manifest.json").read_text())
    del its["inputs"]["tokenizer_sha256"]
    its["settings"]["training"]["world_size"] = 2
    files.write_json(b / "manifest.json", its)
    for difference in compare(a, b).differences:
        assert "different versions" in difference.known.size


# Bad input


def test_what_is_no_run_is_refused(make: Make, tmp_path: Path) -> None:
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
        (newer, "needs a newer version of spac-repro"),
        (half, "not JSON"),
        (lacking, "half a manifest: no 'method'"),
    ):
        for pair in ((a, folder), (folder, a)):
            with pytest.raises(UserError, match=what):
                compare(*pair)


def test_damaged_files_are_named(make: Make, tmp_path: Path) -> None:
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


def test_runs_that_share_nothing_are_refused(make: Make, tmp_path: Path) -> None:
    a = make(tmp_path / "a", scores={0: 0.5})
    b = make(tmp_path / "b", recipe="zephyr-7b", settings__policy={"dtype": "bfloat16"}, inputs__preferences_sha256="z" * 64)
    with pytest.raises(UserError, match="there is nothing to compare"):
        compare(a, b)
    assert compare(a, make(tmp_path / "c", recipe="other")).differences[0].key == "recipe"


# Against expected results


def expected(path: Path, *, source: dict[str, Any] | None = None, **more: Any) -> Path:
    import yaml

    ours = {
        "kind": "measured",
        "commit": "c0ffee",
        "lock_sha256": "l",
        "hardware": "a machine",
        "date": "2026-11-23",
        "seeds": [1, 2, 3, 4],
        "command": "spac-repro train",
        **(source or {}),
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
    path.write_text(yaml.safe_dump({"recipe": "tiny", "sources": {"ours": ours}, "rows": [row], **more}))
    return path


def test_a_run_is_compared_with_expected_results(make: Make, tmp_path: Path) -> None:
    run = make(tmp_path / "a", scores={1: 0.5}, environment__source={"commit": "beef", "changed": False})
    found = comparison.compare_expected(run, expected(tmp_path / "tiny.yaml"))
    assert found.exit_code == 1
    assert found.differences[0].key == "environment.cpu"
    assert {difference.key for difference in found.differences} >= {"environment.source.commit", "environment.lock.sha256"}
    assert found.as_json()["summary"]["where"] == "not known"
    other = comparison.compare_expected(run, expected(tmp_path / "tiny.yaml", settings_sha256={"spac": "d" * 64}))
    (settings,) = (each for each in other.differences if each.key == "settings_sha256")
    assert (settings.b, settings.known.impact) == ("d" * 64, Impact.BY_DESIGN)
    with pytest.raises(UserError, match="is about recipe other"):
        comparison.compare_expected(run, expected(tmp_path / "other.yaml", recipe="other"))


def test_a_comparison_is_json(make: Make, tmp_path: Path) -> None:
    found = compare(make(tmp_path / "a", scores={1: 0.5}), make(tmp_path / "b", scores={1: 0.6}))
    assert json.loads(json.dumps(found.as_json()))["summary"]["what"] == "nothing that is recorded differs"


# Code


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that has two commits."""
    there = ("a" * 40, "b" * 40)
    monkeypatch.setattr("spac_repro.runs.environment.has_commit", lambda commit: commit in there)


def code_difference(make: Make, tmp_path: Path, a: str, b: str) -> str:
    runs = [make(tmp_path / name, environment__source={"commit": name * 40, "changed": False}) for name in (a, b)]
    (found,) = compare(*runs).differences
    assert found.key == "environment.source.commit"
    return found.known.size


@pytest.mark.usefixtures("history")
def test_a_diff_is_advised_only_where_it_can_be_made(make: Make, tmp_path: Path) -> None:
    assert code_difference(make, tmp_path, "a", "b") == "other code; `git diff aaaaaaaa bbbbbbbb` shows it"
    assert "git diff" not in (size := code_difference(make, tmp_path, "a", "d"))
    assert "commit dddddddd is not in the git history" in size


def test_without_a_checkout_the_diff_is_made_in_one(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spac_repro.runs.environment.CHECKOUT", tmp_path)
    assert "in a checkout of the package" in code_difference(make, tmp_path, "a", "b")


@pytest.mark.usefixtures("history")
def test_rows_of_a_lost_commit_are_compared_with_what_replaced_it(make: Make, tmp_path: Path) -> None:
    lost = {"replaced_by": "b" * 40, "argument": "the history was rewritten"}
    file = expected(tmp_path / "tiny.yaml", source={"commit": "d" * 40, "lost": lost})
    found = {}
    for name in ("a", "b"):
        run = make(tmp_path / name, scores={1: 0.5}, environment__source={"commit": name * 40, "changed": False})
        found[name] = {each.key: each for each in comparison.compare_expected(run, file).differences}
    code = found["a"]["environment.source.commit"]
    assert code.b == "b" * 40
    assert code.known.size == (
        "other code; `git diff aaaaaaaa bbbbbbbb` shows it; the rows' own commit dddddddd is lost, and bbbbbbbb replaced it"
    )
    assert "environment.source.commit" not in found["b"]
