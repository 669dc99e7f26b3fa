"""docs/glossary.md has a line for every score and every optimizer metric that a run of `tiny` writes."""

import json
import re
from pathlib import Path

import cut_down
import pytest

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).resolve().parents[2] / "docs" / "glossary.md"


def test_every_score_and_metric_of_a_run_has_a_line(uninterrupted: Path) -> None:
    anchors = set(re.findall(r'<a id="([^"]+)"></a>', PAGE.read_text()))
    scores = {score["metric"] for iterate in cut_down.results(uninterrupted)["iterations"] for score in iterate["scores"]}
    assert {"win_rate", "critic_gap", "acc_macro"} <= scores <= anchors
    steps = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    metrics = {name for step in steps for name in step} - {"iteration", "step", "sha256"}
    assert {name for name in metrics if name not in anchors and f"step-{name}" not in anchors} == set()
