"""One run to a folder, and what a folder of another version is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.runs import files, folder
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import write_fingerprint
from spac_repro.runs.manifest import SCHEMA, Manifest, leaf_differences
from spac_repro.runs.results import Results


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def manifest(*, seed: int = 0, epochs: int = 2, preferences: str = "aa", torch: str = "2.13.0") -> dict:
    return {
        "schema": SCHEMA,
        "recipe": "tiny",
        "method": "spac",
        "seed": seed,
        "settings": {"name": "tiny", "training": {"epochs": epochs, "batch_size": 64}},
        "inputs": {"preferences": 100, "preferences_sha256": preferences},
        "environment": {"libraries": {"torch": torch}, "threads": 1},
        "settings_sha256": "dd",
        "provenance": {},
        "segments": [],
        "equal_bits_claimed": True,
    }


def written(folder: Path) -> dict:
    """What the manifest says of the run, and not of its files."""
    content = json.loads((folder / "manifest.json").read_text())
    return {name: value for name, value in content.items() if name not in ("sha256", "written_files", "written_metrics")}


def claim(folder: Path, wanted: dict, *, allow: bool = False) -> None:
    RunFolder(folder).create_or_resume(Manifest.model_validate(wanted), allow_changed_environment=allow)


def test_a_new_run_writes_its_manifest_and_may_come_again(tmp_path):
    claim(tmp_path, manifest())
    before = (tmp_path / "manifest.json").read_bytes()
    assert written(tmp_path) == manifest()
    claim(tmp_path, manifest())
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (manifest(epochs=3), r"settings\.training\.epochs is 2 there and 3 here"),
        (manifest(seed=1), "seed is 0 there and 1 here"),
        (manifest(preferences="bb"), r"inputs\.preferences_sha256 is 'aa' there and 'bb' here"),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_another_runs_folder_is_refused_with_the_key_and_stays_as_it_is(tmp_path, other, words, allow):
    """Leave to change the environment is no leave to change the run."""
    claim(tmp_path, manifest())
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=f"{words}; choose another folder with --out"):
        claim(tmp_path, other, allow=allow)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_changed_environment_is_refused_and_with_leave_recorded(tmp_path):
    claim(tmp_path, manifest())
    changed = manifest(torch="2.14.0")
    with pytest.raises(UserError, match=r"libraries\.torch was '2\.13\.0' and is '2\.14\.0'; .*--allow-changed-environment"):
        claim(tmp_path, changed)
    assert written(tmp_path) == manifest()

    claim(tmp_path, changed, allow=True)
    there = written(tmp_path)
    assert there == {**manifest(), "segments": [changed["environment"]], "equal_bits_claimed": False}

    claim(tmp_path, changed)  # it is the same as the last segment's
    with pytest.raises(UserError, match="allow-changed-environment"):
        claim(tmp_path, manifest())  # and going back is a change too
    claim(tmp_path, manifest(), allow=True)
    there = json.loads((tmp_path / "manifest.json").read_text())
    assert there["segments"] == [changed["environment"], manifest()["environment"]]
    assert there["equal_bits_claimed"] is False


def test_a_finished_run_may_be_looked_at_from_anywhere(tmp_path):
    claim(tmp_path, manifest())
    (tmp_path / "results.json").write_text("{}")
    claim(tmp_path, manifest(torch="2.14.0"))
    assert written(tmp_path) == manifest()
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        claim(tmp_path, manifest(seed=1))


def test_leave_to_change_changes_nothing_where_nothing_changed(tmp_path):
    claim(tmp_path, manifest(), allow=True)
    claim(tmp_path, manifest(), allow=True)
    assert written(tmp_path) == manifest()


def test_a_folder_with_other_things_in_it_is_no_run_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a run folder"):
        claim(tmp_path, manifest())
    assert entries(tmp_path) == {"thesis.tex"}


def test_a_kill_before_the_manifest_was_whole_does_not_spoil_the_folder(tmp_path):
    for left in (".lock", ".owner.json", "..owner.json.partial", ".manifest.json.partial"):
        (tmp_path / left).write_text('{"half')
    claim(tmp_path, manifest())
    assert written(tmp_path) == manifest()


def test_a_folder_of_another_version_is_refused(tmp_path):
    files.write_json(tmp_path / "manifest.json", {**manifest(), "schema": 99})
    with pytest.raises(UserError, match="schema 99 needs a newer version"):
        claim(tmp_path, manifest())


trees = st.recursive(
    st.integers(0, 3) | st.sampled_from(["a", "b"]) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


def flat(tree, prefix: str = "") -> dict:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {key: value for name, inner in tree.items() for key, value in flat(inner, f"{prefix}{name}.").items()}


@given(trees, trees)
def test_trees_differ_exactly_where_one_of_their_leaves_does(old, new):
    found = list(leaf_differences(old, new))
    assert (found == []) == (old == new)
    for key, was, is_now in found:
        if not isinstance(was, dict) and not isinstance(is_now, dict):
            assert flat(old).get(key) == was
            assert flat(new).get(key) == is_now
            assert was != is_now


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_run_folder_stays_when_its_owner_fails(tmp_path):
    def fail() -> None:
        with RunFolder(tmp_path / "run").exclusive_access():
            claim(tmp_path / "run", manifest())
            raise UserError("later")

    with pytest.raises(UserError, match="later"):
        fail()
    assert (tmp_path / "run" / "manifest.json").exists()
    assert not (tmp_path / "run" / ".owner.json").exists()
    with RunFolder(tmp_path / "run").exclusive_access():
        pass
    assert (tmp_path / "run" / "manifest.json").exists()


# What readers ask


def test_what_a_run_has_to_show_is_named_and_what_is_half_written_is_not(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert (run.artifacts(), run.iterations(), run.last_iterate()) == ([], [], None)
    for name in (
        *("iteration-0/policy/weights", "iteration-0/scores.json", "iteration-10/training/step-4", "iteration-2/policy/weights"),
        *("iteration-10/selfplay/batch-1", "iteration-10/.policy.partial", "iteration-x/scores.json"),
        *("metrics.jsonl", "results.json"),
    ):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    assert run.artifacts() == [
        *("iteration-0/policy", "iteration-0/scores.json"),
        *("iteration-10/selfplay", "iteration-10/selfplay/batch-1", "iteration-10/training", "iteration-10/training/step-4"),
        *("iteration-2/policy", "results.json"),
    ]
    assert [each.number for each in run.iterations()] == [0, 2, 10]
    assert run.last_iterate() == run.iteration(2)
    assert (run.iteration(0).finished, run.iteration(2).finished, run.iteration(10).finished) == (True, False, False)


def begun(folder: Path, **changes: object) -> Path:
    files.write_json(folder / "manifest.json", {**manifest(), **changes})
    return folder


def finished(folder: Path, *, complete: bool = True) -> Path:
    begun(folder)
    identity = {"recipe": "tiny", "method": "spac", "seed": 0, "settings_sha256": "dd", "weights_sha256": "w"}
    files.write_json(folder / "results.json", {"schema": 2, **identity, "complete": complete, "iterations": []})
    return folder


def test_runs_are_found_at_a_place_and_below_it(tmp_path):
    runs = [begun(tmp_path / "sweep" / method / f"seed-{seed}") for method in ("dpo", "spac") for seed in (1, 10, 2)]
    assert [run.path for run in folder.find_runs(tmp_path)] == runs
    assert folder.find_runs(runs[0]) == [RunFolder(runs[0])]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder, and none below it"):
        folder.find_runs(tmp_path / "empty")
    begun(runs[1], schema=99)
    with pytest.raises(UserError, match="newer version"):
        folder.find_runs(tmp_path)


def test_finished_runs_are_neighbours(tmp_path):
    runs = [finished(tmp_path / f"seed-{seed}") for seed in (1, 2)]
    finished(tmp_path / "seed-3", complete=False)
    begun(tmp_path / "seed-4")
    finished(tmp_path / "deeper" / "seed-5")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "results.json").write_text("[]")
    (tmp_path / "notes.txt").touch()
    assert [run.path for run in folder.find_complete_runs(tmp_path)] == runs


def test_a_policy_is_known_by_its_run(tmp_path, monkeypatch):
    run = RunFolder(begun(tmp_path / "run"))
    run.iteration(3).policy.mkdir(parents=True)
    assert folder.run_of_policy(run.iteration(3).policy) == run
    monkeypatch.chdir(run.iteration(3).policy)
    assert folder.run_of_policy(Path(".")) == run
    for other in (run.path / "iteration-3" / "training", run.path / "letters" / "policy", tmp_path / "iteration-1" / "policy"):
        assert folder.run_of_policy(other) is None


def test_the_hash_beside_the_weights_comes_back(tmp_path):
    its = RunFolder(tmp_path).iteration(1)
    write_fingerprint(its.policy, "abc")
    assert its.weights_sha256 == "abc"
    its.fingerprint_file.write_text("{}")
    with pytest.raises(UserError, match="no weights_sha256; remove"):
        _ = its.weights_sha256


SCORE = {"task": "gold", "metric": "reward", "value": 0.5, "stderr": None, "n": 1}


@pytest.mark.parametrize("content", [{}, [{"task": "gold"}], [{**SCORE, "value": "much"}], [SCORE, 1]])
def test_what_are_no_scores_is_refused(tmp_path, content):
    its = RunFolder(tmp_path).iteration(0)
    files.write_json(its.scores_file, content)
    with pytest.raises(UserError, match="not a list of scores"):
        its.scores()


def test_a_damaged_table_is_refused(tmp_path):
    its = RunFolder(tmp_path).iteration(1)
    its.path.mkdir()
    its.dataset_file.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"selfplay\.parquet is damaged"):
        its.read_dataset()


def test_contamination_of_a_run_of_version_0_1_is_read(tmp_path):
    run = RunFolder(tmp_path)
    assert (run.contamination(), run.contamination_file.name) == (None, "contamination.json")
    (tmp_path / "overlap.json").write_text('{"tasks": {}}')
    assert run.contamination() == {"tasks": {}}


@pytest.mark.parametrize("key", ["contamination", "overlap"])
def test_results_name_their_contamination_by_either_key(key):
    parts = {"recipe": "tiny", "method": "spac", "seed": 0, "complete": True, "settings_sha256": "s", "weights_sha256": "w"}
    read = Results.model_validate({**parts, "iterations": [], key: {"tasks": {}}})
    assert read.contamination == read.as_json()["contamination"] == {"tasks": {}}
