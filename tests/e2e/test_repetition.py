"""`train --like RUN`: a run repeated from its manifest alone, and the comparison at its end."""

import json
import shutil
from pathlib import Path

import cut_down
import pytest

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
    metrics = tmp_path / "again" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"iteration": 1, "step": 4, "loss": ', '"iteration": 1, "step": 4, "loss": 1'))
    found, stands = rerun.compare_with_original(uninterrupted, tmp_path / "again")
    assert not stands
    assert str(found.first_difference.training).startswith("iteration 1, training, step 4: loss is ")
    assert "nothing that is recorded explains it" in found.summary[1]


def test_another_environment_is_refused_unless_allowed(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    manifest = json.loads((uninterrupted / "manifest.json").read_text())
    manifest["environment"]["libraries"]["torch"] = "2.12.0"
    (tmp_path / "only" / "manifest.json").write_text(json.dumps(manifest))
    done = cut_down.train(tmp_path / "again", "--like", str(tmp_path / "only"), settings=())
    assert done.returncode == 3
    assert "environment.libraries.torch is '2.12.0' there" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "again").exists()
