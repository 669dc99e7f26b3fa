"""`train --like RUN`: a run repeated from its manifest alone, and the comparison at its end."""

import shutil
from dataclasses import replace
from pathlib import Path

import cut_down
import pytest

from spac_repro.runs import file_hashes, files
from spac_repro.runs.folder import RunFolder
from spac_repro.trust import rerun

pytestmark = pytest.mark.e2e


def test_a_run_is_repeated_from_its_manifest_alone(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    shutil.copy(uninterrupted / "manifest.json", tmp_path / "only")
    done = cut_down.train(tmp_path / "again", "--like", str(tmp_path / "only"), settings=())
    assert done.returncode == 0, done.stderr
    assert cut_down.results(tmp_path / "again") == cut_down.results(uninterrupted)
    assert "What differs: nothing that is recorded differs" in done.stdout
    found, stands = rerun.compare_with_original(uninterrupted, tmp_path / "again")
    assert stands
    assert found.first_difference.equal_up_to == "weights of iterate 2"
    assert (tmp_path / "again" / "ro-crate-metadata.json").exists()

    # The comparison can fail: one digit of one metric.
    change_loss(RunFolder(tmp_path / "again"), iteration=1, step=4)
    found, stands = rerun.compare_with_original(uninterrupted, tmp_path / "again")
    assert not stands
    assert str(found.first_difference.training).startswith("iteration 1, training, step 4: loss is ")
    assert "nothing that is recorded explains it" in found.summary[1]


def change_loss(run: RunFolder, *, iteration: int, step: int) -> None:
    """Change a metric, as if the run had computed it."""
    steps = [
        replace(each, values={**each.values, "loss": each.values["loss"] + 1})
        if (each.iteration, each.step) == (iteration, step)
        else each
        for each in run.metrics()
    ]
    run.metrics_file.write_bytes(b"".join(each.encode() for each in steps))
    changed = run.manifest.model_copy(update={"written_metrics": {"iteration-2": file_hashes.written_metrics(run)}})
    files.write_json(run.manifest_file, changed.as_json())


def test_another_environment_is_refused_unless_allowed(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    recorded = RunFolder(uninterrupted).manifest
    libraries = {**recorded.environment["libraries"], "torch": "2.12.0"}
    elsewhere = recorded.model_copy(update={"environment": {**recorded.environment, "libraries": libraries}})
    files.write_json(tmp_path / "only" / "manifest.json", elsewhere.as_json())
    done = cut_down.train(tmp_path / "again", "--like", str(tmp_path / "only"), settings=())
    assert done.returncode == 3
    assert "environment.libraries.torch is '2.12.0' there" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "again").exists()
