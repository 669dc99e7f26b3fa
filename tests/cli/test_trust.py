"""`verify` and `compare`."""

import hashlib
import json
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one run folder"),
        (["run", "--scores", "results.json"], "name run folders or use --scores, not both"),
        (["--scores", "results.json", "--deep"], "--deep checks the files of a run, and --scores is a file alone"),
        (["--scores", "results.json", "--recipe", "tiny"], "--scores needs --recipe, --method and --iteration"),
    ],
)
def test_what_cannot_be_verified(refused, arguments, words):
    assert words in refused("verify", *arguments)


def test_what_is_no_run_cannot_be_compared(refused, tmp_path):
    assert refused("compare", "a", "b") == "a: no such run folder"
    (tmp_path / "a").mkdir()
    assert "a has no manifest.json" in refused("compare", "a", "b")
    assert "a has no manifest.json" in refused("compare", "a", "expected.yaml")


def test_runs_go_into_an_archive_that_can_be_verified(invoke, tmp_path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "publish"))
    from test_archive import make

    make(tmp_path / "runs" / "seed-0")
    done = invoke("archive", "runs", "-o", "claim.zip", "--creator", "Doe, Jane", "--license", "CC-BY-4.0")
    assert done.code == 0
    assert done.out.startswith("claim.zip: 1 runs, ")
    sha256 = hashlib.sha256((tmp_path / "claim.zip").read_bytes()).hexdigest()
    assert done.out.splitlines()[1] == f"SHA-256 {sha256}"
    assert "writing the archive" in done.err
    found = invoke("verify", "claim.zip")
    assert found.code == 2  # its settings have no row
    assert f"SHA-256 {sha256}" in found.out
    assert "unverified" in found.out
    assert "an archive is verified alone" in invoke("verify", "claim.zip", "runs").err
    as_json = json.loads(invoke("verify", "claim.zip", "--json").out)
    assert (as_json["sha256"], [verdict["status"] for verdict in as_json["verdicts"]]) == (sha256, ["unverified"])
    (tmp_path / "claim.zip").write_bytes((tmp_path / "claim.zip").read_bytes()[:-100])
    assert invoke("verify", "claim.zip").err.splitlines()[-1].startswith("spac-repro: claim.zip: not a whole archive")
    again = invoke("archive", "runs", "-o", "claim.zip")
    assert (again.code, again.err) == (2, "spac-repro: claim.zip: exists; nothing is overwritten: name another file\n")
