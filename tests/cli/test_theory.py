"""`spac-repro theory --instance FILE`, by way of the command line."""

import json
import re

import pytest


@pytest.mark.theory
def test_an_instance_prints_the_means_and_the_coverage(tmp_path, invoke):
    file = tmp_path / "mine.yaml"
    file.write_text("reward: [[1, 0.5, 0]]\nmu: [[0, 0.5, 0.5]]\nn: [50]\n")
    done = invoke("theory", "--instance", file, "--seeds", "2", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert re.search(r"SPAC-T\W+0\.\d{4}", done.out)
    assert "μ does not cover the best policy" in done.out
    done = invoke("theory", "--instance", file, "--seeds", "2", "--out", tmp_path / "out", "--json")
    assert "rival" in json.loads(done.out)["studies"]["instance"]["tests"][0]
    for other in (["--quick"], ["--experiment", "rounds"]):
        done = invoke("theory", "--instance", file, *other)
        assert (done.code, "--instance" in done.err) == (2, True)
