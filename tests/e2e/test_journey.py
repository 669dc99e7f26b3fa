"""What a newcomer does with a run, through the command line: trained, killed, resumed, evaluated, verified, compared, reported."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cut_down
import pytest
import yaml

pytestmark = pytest.mark.e2e


def spac_repro(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spac_repro", *map(str, words)]
    return subprocess.run(command, env=cut_down.environment(), capture_output=True, text=True, timeout=300)


def answer(*words: str | Path, code: int = 0) -> dict[str, Any]:
    """What a command says with --json, if it ends with the exit code."""
    done = spac_repro(*words, "--json")
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout))


def expected(run: Path, file: Path, *, off_by: float) -> Path:
    """Expected results for the settings of a run: its own scores of the last iterate, all off by the same."""
    results = cut_down.results(run)
    last = results["iterations"][-1]
    where = {"method": results["method"], "iteration": last["iteration"], "source": "ours", "seeds": 10, "sd": 0.01}
    rows = [
        {**where, "task": score["task"], "metric": score["metric"], "value": score["value"] + off_by, "primary": True}
        for score in last["scores"]
        if score["task"] == "gold"
    ]
    measured = {"kind": "measured", "commit": "c", "lock_sha256": "l", "hardware": "h", "date": "2026-01-31"}
    source = {**measured, "seeds": list(range(1, 11)), "command": "x", "harness": results["harness"]}
    digests = {results["method"]: results["settings_sha256"]}
    content = {"recipe": "tiny", "settings_sha256": digests, "sources": {"ours": source}, "rows": rows}
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_whole_way(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    # Killed at a training step, it goes on, and ends with the bits of the run that was not.
    process = subprocess.Popen(cut_down.command(run), env=cut_down.environment(), stderr=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and '"iteration": 1, "step": 2,' in metrics.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "results.json").exists()
    resumed = cut_down.train(run)
    assert resumed.returncode == 0, resumed.stderr
    assert cut_down.results(run) == cut_down.results(uninterrupted)
    assert "WARNING" not in resumed.stderr, "rendering tells nothing from data"
    for t in (1, 2):
        audits = [folder / f"iteration-{t}" / "audit.json" for folder in (run, uninterrupted)]
        assert len({audit.read_bytes() for audit in audits}) == 1

    # Evaluated again, its last iterate has the scores that the run gave it.
    scores = answer("evaluate", run, "--suite", "mini", "--limit", "4")["scores"]
    last = cut_down.results(run)["iterations"][-1]["scores"]
    assert scores == [score for score in last if score["task"].startswith("mini_") or score["task"] == "average"]

    # Verified, it agrees with what was expected of it, and with nothing else.
    for off_by, code, status in ((0.0, 0, "verified"), (1.0, 1, "disagrees")):
        verdict = answer("verify", run, "--expected", expected(run, tmp_path / "expected.yaml", off_by=off_by), code=code)
        assert verdict["status"] == status

    # Compared with the one that was not killed, nothing differs.
    compared = answer("compare", uninterrupted, run)
    assert compared["differences"] == []
    assert compared["equal_up_to"] == "weights of iterate 2"

    # The report shows both, and a score.
    page = tmp_path / "report.html"
    reported = spac_repro("report", uninterrupted, run, "-o", page)
    assert reported.returncode == 0, reported.stderr
    reward = next(score["value"] for score in last if score["metric"] == "reward")
    assert f"{reward:.3f}" in page.read_text()
