"""A real run in an archive: its answers are there, it is verified there, and a score that was altered is found."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cut_down
import pytest

from spac_repro.publish import archive_format

pytestmark = pytest.mark.e2e


def spac_repro(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spac_repro", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=cut_down.environment())


def expected_of(run: Path, path: Path) -> Path:
    """Expected results that the run's own gold reward keeps."""
    last = cut_down.results(run)["iterations"][-1]
    (reward,) = (score["value"] for score in last["scores"] if (score["task"], score["metric"]) == ("gold", "reward"))
    row = f"method: spac, iteration: {last['iteration']}, task: gold, metric: reward, value: {reward}, primary: true, effect: 1"
    tolerance = "tolerance: {value: 0.001, argument: its own}"
    path.write_text(
        f"recipe: tiny\nsources:\n  own: {{kind: published, citation: c}}\nrows:\n- {{source: own, {row}, {tolerance}}}\n"
    )
    return path


def test_a_run_is_archived_and_verified(uninterrupted: Path, tmp_path: Path) -> None:
    archive, expected = tmp_path / "claim.zip", expected_of(uninterrupted, tmp_path / "expected.yaml")
    done = spac_repro("archive", uninterrupted, "-o", archive)
    assert (done.returncode, "Warning" in done.stderr) == (0, False), done.stderr
    with zipfile.ZipFile(archive) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    places = [entry["folder"] for entry in json.loads(contents["archive.json"])["runs"]]
    assert places == ["runs/tiny/spac/seed-0"]
    assert {f"{places[0]}/iteration-{t}/answers.parquet" for t in range(3)} <= set(contents)
    verified = spac_repro("verify", archive, "--expected", expected, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["verdicts"][0]["status"] == "verified"

    results = f"{places[0]}/results.json"
    contents[results] = contents[results].replace(b'"value": 0.', b'"value": 1.', 1)
    del contents[archive_format.SUMS]
    with (tmp_path / "better.zip").open("wb") as file:
        archive_format.write(file, contents)  # with hashes of its own
    altered = spac_repro("verify", tmp_path / "better.zip", "--expected", expected)
    assert altered.returncode == 2
    assert altered.stderr.splitlines()[-1].endswith(
        f"{results} is not what the run wrote; the run was altered before it was archived"
    )
