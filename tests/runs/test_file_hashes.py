"""The chain from the manifest to every file of a run: what is changed, missing or foreign is noticed, and nothing else."""

import hashlib
import json

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import file_hashes, files, ownership, timing
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA, Manifest
from spac_repro.runs.results import IterateScores, Results, Score
from spac_repro.runs.verdict import Verdict

SCORES = (Score("gold", "reward", 0.5, 0.01, 10),)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """An unfinished run with iterate 0."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    new = Manifest(
        schema=SCHEMA, recipe="tiny", method="spac", seed=0, settings={}, settings_sha256="s",
        inputs={}, environment={}, written_files={},
    )  # fmt: skip
    folder.create_or_resume(new, allow_changed_environment=False)
    first = folder.iteration(0)
    folder.metrics_file.write_text('{"iteration": 0, "step": 1}\n')
    with files.atomic_folder(first.policy, before_rename=file_hashes.finish_iteration(folder, first.policy)) as policy:
        (policy / "config.json").write_text('{"rope_theta": 10000}')
        (policy / "model.safetensors").write_bytes(b"0" * 100)
        (policy / "README.md").write_text("card")
    file_hashes.write_json(folder, first.scores_file, [score.as_dict() for score in SCORES])
    return folder


@pytest.fixture
def finished(run) -> RunFolder:
    iterates = (IterateScores(iteration=0, weights_sha256="w", scores=SCORES),)
    results = Results(
        recipe="tiny", method="spac", seed=0, complete=True, settings_sha256="s", weights_sha256="w", iterations=iterates
    )
    file_hashes.write_json(run, run.results_file, results.as_json())
    return run


def again(run: RunFolder) -> RunFolder:
    """The folder as the next command finds it."""
    return RunFolder(run.path)


def test_an_unharmed_run_passes(run, finished):
    assert file_hashes.check(again(finished), deep=True) == file_hashes.FileCheck(checked=4, not_checked=0, removed=0)
    assert str(file_hashes.check(again(run))) == "4 files are what the run wrote"


def test_the_card_may_be_written_again(finished):
    (finished.iteration(0).policy / "README.md").write_text("with scores")
    file_hashes.check(again(finished), deep=True)


RECORDED = ("iteration-0/policy/config.json", "iteration-0/policy/model.safetensors", "iteration-0/scores.json", "results.json")


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("how", ["flipped", "emptied", "longer", "folder"])
def test_a_file_that_was_changed_is_named(finished, name, how):
    path = finished.path / name
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "longer":
        path.write_bytes(content + b" ")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(UserError, match=str(path)):
        file_hashes.check(again(finished), deep=True)


@pytest.mark.parametrize("name", RECORDED)
def test_a_file_that_is_missing_is_named(finished, name):
    (finished.path / name).unlink()
    if name == "results.json":
        assert not again(finished).complete
        return
    with pytest.raises(UserError, match=f"{finished.path / name}: missing"):
        file_hashes.check(again(finished))


def test_large_files_are_checked_on_demand_and_where_they_are_used(finished, monkeypatch):
    monkeypatch.setattr(file_hashes, "SMALL_BYTES", 90)
    weights = finished.iteration(0).policy / "model.safetensors"
    weights.write_bytes(b"1" * 100)
    found = file_hashes.check(again(finished))
    assert found.not_checked >= 1
    assert "--deep" in str(found)
    for check in (lambda: file_hashes.check(again(finished), deep=True), lambda: file_hashes.check_iterate(again(finished), 0)):
        with pytest.raises(UserError, match=f"{weights}: it is not what the run wrote"):
            check()


def test_an_iterate_that_another_process_wrote_after_the_manifest_was_read_passes(run):
    """The main process writes iterates; every process loads them."""
    other = again(run)
    assert other.manifest.written_files
    second = run.iteration(1)
    with files.atomic_folder(second.policy, before_rename=file_hashes.finish_iteration(run, second.policy)) as policy:
        (policy / "config.json").write_text("{}")
    file_hashes.check_iterate(other, 1)


def test_iterates_may_be_removed_once_the_run_is_finished(finished):
    import shutil

    shutil.rmtree(finished.iteration(0).policy)
    assert file_hashes.check(again(finished)).removed == 2


@pytest.mark.parametrize(
    "name", ["iteration-1/scores.json", "iteration-0/policy/adapter.json", "iteration-0/gold.json", "iteration-1/audit.json"]
)
def test_a_file_that_the_run_did_not_write_is_named(run, name):
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[]")
    with pytest.raises(UserError, match=f"{path}: the run did not write it"):
        file_hashes.check(again(run))


def test_metrics_that_were_changed_are_noticed(finished):
    finished.metrics_file.write_text('{"iteration": 0, "step": 2}\n')
    with pytest.raises(UserError, match="are not those that were written"):
        file_hashes.check(again(finished))


def test_metrics_of_an_unfinished_run_that_were_changed_are_noticed(run):
    file_hashes.check(again(run))
    run.metrics_file.write_text(run.metrics_file.read_text() + '{"iteration": 1, "step": 1}\n')  # of the next iteration
    file_hashes.check(again(run))
    for content in ("", '{"iteration": 0, "step": 2}\n'):
        run.metrics_file.write_text(content)
        with pytest.raises(UserError, match="are not those that were written"):
            file_hashes.check(again(run))
    run.metrics_file.unlink()
    run.metrics_file.mkdir()
    with pytest.raises(UserError, match="not a file"):
        file_hashes.check(again(run))


def test_the_steps_of_an_iterate_count_once_it_is_there(run):
    """Its entry is made before it takes its name. A kill in between, and its steps are taken again."""
    before = file_hashes.finished_metrics(again(run))
    run.metrics_file.write_text(run.metrics_file.read_text() + '{"iteration": 1, "step": 1}\n')
    path = run.iteration(1).policy
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(path, before_rename=killed_after(run, path)):
        pass
    assert again(run).manifest.written_metrics.keys() == {"iteration-0", "iteration-1"}
    assert file_hashes.finished_metrics(again(run)) == before
    with files.atomic_folder(path, before_rename=file_hashes.finish_iteration(run, path)):
        pass
    assert file_hashes.finished_metrics(again(run)) == file_hashes.written_metrics(run) != before


def killed_after(run, path):
    enter = file_hashes.finish_iteration(run, path)

    def hook(temporary):
        enter(temporary)
        raise KeyboardInterrupt

    return hook


def test_a_verdict_and_times_that_were_changed_are_noticed(finished):
    finished.write_verdict(Verdict("tiny", "verified", "agrees", 0.01))
    with timing.record_stage(finished.timing_file, 0, "start", computed_from=finished.timing_computed_from, write=True):
        pass
    file_hashes.check(again(finished))
    for path, old, new in ((finished.verdict_file, "verified", "disagrees"), (finished.timing_file, '"start"', '"stop"')):
        content = path.read_text()
        path.write_text(content.replace(old, new))
        with pytest.raises(UserError, match=f"{path}: its hash is not the one written in it; remove it"):
            file_hashes.check(again(finished))
        path.unlink()
        file_hashes.check(again(finished))
        path.write_text(content)


def test_a_manifest_with_hashes_needs_its_own(finished):
    content = json.loads(finished.manifest_file.read_text())
    files.write_json(finished.manifest_file, {("sha257" if name == "sha256" else name): value for name, value in content.items()})
    with pytest.raises(UserError, match="its hash is not the one written in it"):
        again(finished).manifest  # noqa: B018


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("method", "dpo"), ("settings_sha256", "t"), ("inputs", {"a": 1})])
def test_a_manifest_that_was_changed_is_refused(finished, key, value):
    content = json.loads(finished.manifest_file.read_text())
    files.write_json(finished.manifest_file, {**content, key: value})
    with pytest.raises(UserError, match="its hash is not the one written in it"):
        again(finished).manifest  # noqa: B018


def test_a_manifest_of_another_run_is_noticed(finished):
    other = finished.manifest.model_copy(update={"seed": 1})
    files.write_json(finished.manifest_file, other.as_json())
    with pytest.raises(UserError, match="seed is 0 there and 1 in the manifest"):
        file_hashes.check(again(finished))


def test_the_hash_stands_in_the_manifest_before_the_file_is_there(run, monkeypatch):
    """So no kill can leave a file that is not recorded."""
    seen = []
    path = run.iteration(1).scores_file
    monkeypatch.setattr(ownership, "check", lambda place: seen.append(again(run).manifest.written_files) if place == path else None)
    file_hashes.write_json(run, path, [])
    assert seen[-1]["iteration-1/scores.json"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_computed_again_must_be_the_same(run):
    scores = run.iteration(0).scores_file
    scores.unlink()
    with pytest.raises(UserError, match="computed again and is another than before"):
        file_hashes.write_json(run, scores, [])
    assert not scores.exists()
    file_hashes.write_json(run, scores, [score.as_dict() for score in SCORES])
    file_hashes.check(again(run))


def test_runs_of_0_1_have_no_hashes(run):
    content = run.manifest.as_json()
    content = {name: value for name, value in content.items() if name not in ("sha256", "written_files")}
    files.write_json(run.manifest_file, content)
    assert "version 0.1 recorded no hashes" in str(file_hashes.check(again(run)))


def test_nothing_is_written_into_a_folder_that_was_made_again(run):
    import shutil

    held = (run.path / ownership.LOCK).open("w")  # as the owner holds it: the inode of a closed file could be given to the new one
    ownership.begin(run.path)
    try:
        files.write_json(run.path / "one.json", 1)
        shutil.rmtree(run.path)
        run.path.mkdir()
        for lock in (False, True):
            if lock:
                (run.path / ownership.LOCK).touch()
            for write in (lambda: files.write_json(run.path / "iteration-1" / "two.json", 2), lambda: make_folder(run.path / "p")):
                with pytest.raises(UserError, match="was removed while this run was at work in it"):
                    write()
        assert not list(run.path.rglob("*.json"))
    finally:
        held.close()
        ownership.end(run.path)


def make_folder(path) -> None:
    with files.atomic_folder(path):
        pass


def test_an_unfinished_run_without_an_earlier_iterate_can_be_resumed_and_not_read(run):
    import shutil

    file_hashes.write_json(run, run.iteration(1).scores_file, [])
    file_hashes.check(again(run))
    shutil.rmtree(run.iteration(0).policy)
    assert file_hashes.check(again(run), resuming=True).checked == 2, "files that are not there are not counted"
    with pytest.raises(UserError, match="iteration-0/policy: missing, and the run wrote it; repeat the run's `train` command"):
        file_hashes.check(again(run))


def test_a_file_that_appears_during_the_check_is_no_foreign_one(run, monkeypatch):
    """The run may be at work: its manifest is read after the files are looked for."""
    old = again(run)
    _ = old.manifest
    file_hashes.write_json(run, run.iteration(1).scores_file, [])
    file_hashes.check(old)
