"""Runs of `tiny` that are wrong, though their manifests claim to be right, held against expected_results/tiny.yaml.

Whole runs, as the expected results are for whole ones: by hand, `make test-teeth`; docs/results.md has what they said.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.teeth, pytest.mark.timeout(7200)]  # the fixture trains for a quarter of an hour on an idle machine

SEEDS = (11, 12, 13, 14, 15)  # none of the expected results'
FAULTS = ("nothing", "no_learning", "critic_flipped", "preferences_flipped", "labels_swapped")
PRIMARY = ("gold reward", "heldout margin")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


def verdict(*folders: Path) -> dict[str, Any]:
    """What `verify` says of some runs."""
    said = run("-m", "spac_repro", "verify", *folders, "--json")
    assert said.returncode in (0, 1), said.stderr
    return {**json.loads(said.stdout), "exit_code": said.returncode}


def found(*folders: Path) -> set[str]:
    """The primary rows that disagree."""
    said = verdict(*folders)
    wrong = {f"{row['task']} {row['metric']}" for row in said["rows"] if row["primary"] and row["verdict"] == "disagrees"}
    assert (said["exit_code"] == 1) == bool(wrong)
    return wrong


def start_of(runs: Path, seed: int) -> Path:
    return runs / "starts" / f"seed-{seed}"


def folder_of(runs: Path, name: str, seed: int = SEEDS[0]) -> Path:
    """The folder of a run with a fault, or of an honest run of DPO, as experiments/records.py reads them."""
    return runs / ("dpo" if name == "dpo" else f"fault={name}/spac") / f"seed-{seed}"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run for every fault, and honest ones of DPO. SPAC_REPRO_TEETH names one to be kept, or gone on with."""
    out = Path(os.environ.get("SPAC_REPRO_TEETH") or tmp_path_factory.mktemp("teeth"))

    def start(seed: int) -> None:
        done = run("-m", "spac_repro", "train", "--seed", str(seed), "--until", "0", "--out", start_of(out, seed))
        assert done.returncode == 0, done.stderr

    def train(name: str, seed: int) -> None:
        program = ["-m", "spac_repro"] if name == "dpo" else [Path(__file__).with_name("faulty.py"), name]
        method = "dpo" if name == "dpo" else "spac"
        folder = ["--seed", str(seed), "--out", folder_of(out, name, seed), "--start-from", start_of(out, seed)]
        done = run(*program, "train", "--method", method, *folder)
        assert done.returncode in (0, 1), done.stderr  # 1: trained, and the numbers disagree, which is what is looked for

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(start, SEEDS))
        list(pool.map(lambda its: train(*its), [*((fault, SEEDS[0]) for fault in FAULTS), *(("dpo", seed) for seed in SEEDS)]))
    return out


def honest(runs: Path) -> Path:
    return folder_of(runs, "nothing")


def forged(results: dict[str, Any], folder: Path) -> Path:
    """A results file that claims the honest run's settings. It stands alone: in the run's folder its hash would give it away."""
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "results.json"


def test_an_honest_run_passes(runs: Path) -> None:
    assert found(honest(runs)) == set()


@pytest.mark.parametrize("fault", ["no_learning", "critic_flipped", "preferences_flipped"])
def test_a_wrong_training_is_found(runs: Path, fault: str) -> None:
    assert found(folder_of(runs, fault))


def test_swapped_labels_are_found_or_too_small_to_be(runs: Path) -> None:
    for row in verdict(folder_of(runs, "labels_swapped"))["rows"]:
        if row["primary"] and row["verdict"] != "disagrees":
            assert abs(row["difference"]) < row["smallest_detectable"]


def test_dpo_passed_off_as_spac_is_found(runs: Path, tmp_path: Path) -> None:
    """In each run, and in five together."""
    claims = {key: its for key, its in _results(honest(runs)).items() if key in ("method", "settings_sha256")}
    folders = [forged({**_results(folder_of(runs, "dpo", seed)), **claims}, tmp_path / str(seed)) for seed in SEEDS]
    assert all("heldout margin" in found(folder) for folder in folders)
    assert "heldout margin" in found(*folders)


@pytest.mark.parametrize("row", PRIMARY)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_score_edited_by_twice_the_tolerance_is_found(runs: Path, tmp_path: Path, row: str, sign: int) -> None:
    lines = [line for line in verdict(honest(runs))["rows"] if line["primary"]]
    (its,) = [line for line in lines if f"{line['task']} {line['metric']}" == row]
    results = _results(honest(runs))
    for score in results["iterations"][-1]["scores"]:
        if f"{score['task']} {score['metric']}" == row:
            score["value"] = its["expected"] + sign * 2 * its["tolerance"]
    assert found(forged(results, tmp_path / "edited")) == {row}


def _results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))
