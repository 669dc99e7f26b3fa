"""Runs of `tiny` that are wrong, though their manifests claim to be right, held against expected_results/tiny.yaml.

Whole runs, as the expected results are for whole ones: by hand, `make test-teeth`; docs/results.md has what they said.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.teeth

SEED = "11"  # none of the expected results'
FAULTS = ("nothing", "no_learning", "critic_flipped", "preferences_flipped", "labels_swapped")
PRIMARY = ("gold reward", "heldout critic_gap")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


def verdict(folder: Path) -> dict[str, Any]:
    """What `verify` says of a run."""
    said = run("-m", "spac_repro", "verify", folder, "--json")
    assert said.returncode in (0, 1), said.stderr
    return {**json.loads(said.stdout), "exit_code": said.returncode}


def found(folder: Path) -> set[str]:
    """The primary rows that disagree."""
    said = verdict(folder)
    wrong = {f"{row['task']} {row['metric']}" for row in said["rows"] if row["primary"] and row["verdict"] == "disagrees"}
    assert (said["exit_code"] == 1) == bool(wrong)
    return wrong


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run for every fault, and an honest DPO; all share one start."""
    out = Path(os.environ.get("SPAC_REPRO_TEETH", tmp_path_factory.mktemp("teeth")))
    faulty = Path(__file__).with_name("faulty.py")
    start = run("-m", "spac_repro", "train", "--seed", SEED, "--until", "0", "--out", out / "start")
    assert start.returncode == 0, start.stderr

    def train(name: str) -> subprocess.CompletedProcess[str]:
        program = ["-m", "spac_repro"] if name == "dpo" else [str(faulty), name]
        method = "dpo" if name == "dpo" else "spac"
        arguments = ["train", "--method", method, "--seed", SEED, "--out", out / name, "--start-from", out / "start"]
        return run(*program, *arguments)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done in pool.map(train, (*FAULTS, "dpo")):
            assert done.returncode in (0, 1), done.stderr  # 1: trained, and the numbers disagree, which is what is looked for
    return out


def test_an_honest_run_passes(runs: Path) -> None:
    assert found(runs / "nothing") == set()


@pytest.mark.parametrize("fault", ["no_learning", "critic_flipped", "preferences_flipped"])
def test_a_wrong_training_is_found(runs: Path, fault: str) -> None:
    assert found(runs / fault)


def test_swapped_labels_are_found_or_too_small_to_be(runs: Path) -> None:
    said = verdict(runs / "labels_swapped")
    for row in said["rows"]:
        if row["primary"] and row["verdict"] != "disagrees":
            assert abs(row["difference"]) < row["smallest_detectable"]


def test_dpo_passed_off_as_spac_is_found(runs: Path, tmp_path: Path) -> None:
    honest, forged = (json.loads((runs / name / "results.json").read_text()) for name in ("nothing", "dpo"))
    (tmp_path / "results.json").write_text(json.dumps({**forged, **{key: honest[key] for key in ("method", "settings_digest")}}))
    shutil.copy(runs / "nothing" / "manifest.json", tmp_path)
    assert "heldout critic_gap" in found(tmp_path)


@pytest.mark.parametrize("row", PRIMARY)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_score_edited_by_twice_the_tolerance_is_found(runs: Path, tmp_path: Path, row: str, sign: int) -> None:
    honest = verdict(runs / "nothing")
    (its,) = [line for line in honest["rows"] if line["primary"] and f"{line['task']} {line['metric']}" == row]
    results = json.loads((runs / "nothing" / "results.json").read_text())
    for score in results["iterations"][-1]["scores"]:
        if f"{score['task']} {score['metric']}" == row:
            score["value"] = its["expected"] + sign * 2 * its["tolerance"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    shutil.copy(runs / "nothing" / "manifest.json", tmp_path)
    assert found(tmp_path) == {row}
