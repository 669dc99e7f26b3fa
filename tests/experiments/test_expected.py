"""Expected results are made of runs of one environment and one commit, which the file names."""

import sys
from pathlib import Path
from typing import Any

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import environment, files, numerics
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import expected


def run(folder: Path, *, segments: tuple[dict[str, Any], ...] = (), **changes: Any) -> RunFolder:
    """A run folder with a manifest, made here from committed code unless the changes say otherwise."""
    here = {**environment.describe(), "source": {"commit": "a" * 40, "changed": False}, **changes}
    identity = {"recipe": "tiny", "method": "spac", "seed": 1, "settings": {}, "inputs": {}}
    content = {"schema": SCHEMA, **identity, "environment": here, "segments": list(segments)}
    files.write_json(RunFolder(folder).manifest_file, content)
    return RunFolder(folder)


def test_runs_of_one_environment_have_one_source(tmp_path: Path) -> None:
    expected.check_one_environment([run(tmp_path / "a"), run(tmp_path / "b")])


def test_runs_of_other_kernels_or_commits_or_of_no_commit_are_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    kernels = {**environment.describe()["kernels"], "cpu_capability": "NO AVX"}
    for other, words in (
        (run(tmp_path / "a", kernels=kernels), "kernels.cpu_capability is 'NO AVX'"),
        (run(tmp_path / "b", source={"commit": "b" * 40, "changed": False}), "source.commit is 'bbbb"),
        (run(tmp_path / "c", source={"commit": "a" * 40, "changed": True}), "code that no commit holds"),
        (run(tmp_path / "d", source=None), "code that no commit holds"),
        (run(tmp_path / "e", segments=({"cpu": "another"},)), "resumed in another environment"),
    ):
        with pytest.raises(UserError) as refused:
            expected.check_one_environment([first, other])
        assert words in str(refused.value)


def test_the_hardware_is_that_of_the_runs_and_told_from_others_of_its_name() -> None:
    there = {
        "cpu": "AMD EPYC",
        "processor": {"family": "25", "model": "1", "stepping": None},
        "kernels": {"cpu_capability": "AVX2"},
    }
    assert numerics.hardware(there) == "AMD EPYC (family 25, model 1), AVX2"
