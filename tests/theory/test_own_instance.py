from pathlib import Path

import numpy as np
import pytest

from spac_repro.errors import UserError
from spac_repro.theory import runner
from spac_repro.theory.instances import Instance
from spac_repro.theory.own_instance import EXAMPLE, InstanceFile
from spac_repro.theory.vectorized import Batch

THREE_PROMPTS = """reward: [[1.0, 0.6, 0.3], [0.9, 0.1, 0.5], [0.2, 0.7, 0.7]]
mu: [[0.3, 0.5, 0.2], [0.05, 0.65, 0.3], [0.5, 0.25, 0.25]]
prompts: [0.5, 0.3, 0.2]
scale: 2
n: [3, 300]
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "mine.yaml").write_text(text)
        return tmp_path / "mine.yaml"

    return write


def test_a_file_is_the_instance_that_it_describes(written):
    file = InstanceFile.read(written(THREE_PROMPTS))
    instance = file.instance()
    assert (file.n, instance.scale, instance.bound, instance.shape) == ([3, 300], 2.0, 2.0, (3, 3))
    assert instance.prompts.tolist() == [0.5, 0.3, 0.2]
    assert instance.mu[2].tolist() == [0.5, 0.25, 0.25]
    assert InstanceFile.read(written(EXAMPLE)).instance().prompts.tolist() == [1.0]
    thirds = "reward: [[1, 0, 0]]\nmu: [[0.3333333, 0.3333333, 0.3333334]]\nn: [10]\n"
    assert InstanceFile.read(written(thirds)).instance().mu.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n: [100, 1000]", "n: [100, 100]", r"line 4: n: names a number twice"),
        ("n: [100, 1000]", "", r"n: missing; such a file is"),
        ("n: [100, 1000]", "n: [0]", r"line 4: n\.0: .*greater than or equal to 1"),
        ("n: [100, 1000]", "n: 100", r"line 4: n: .*valid list"),
        ("scale: 3", "scale: -1", r"line 3: scale: .*greater than or equal to 0\.01"),
        ("scale: 3", "scale: 1e6", r"line 3: scale: .*less than or equal to 100"),
        ("scale", "scales", r"unknown key \(did you mean scale\?\)"),
        ("0.3]]\nmu", "1.3]]\nmu", r"line 1: reward\.0\.2: .*less than or equal to 1"),
        ("0.3, 0.5, 0.2", "0.3, 0.5", r"line 2: mu\.0: has 2 responses, and the first prompt of reward has 3"),
        ("0.3, 0.5, 0.2", "0.3, 0.5, 0.3", r"line 2: mu\.0: sums to 1\.1, not 1"),
        ("0.3, 0.5, 0.2", "0.3, 0.9, -0.2", r"line 2: mu\.0\.2: .*greater than or equal to 0"),
        ("mu: [[", "mu: [[0.3, 0.5, 0.2], [", r"line 2: mu: has 2 prompts and reward has 1"),
        ("scale: 3", "prompts: [0.5, 0.5]", r"line 3: prompts: has 2 prompts and reward has 1"),
        ("scale: 3", "prompts: [0.9]", r"line 3: prompts: sums to 0\.9, not 1"),
        ("scale: 3", "slack: 0.5", r"line 3: slack: .*greater than or equal to 1"),
        ("reward: [[1.0, 0.6, 0.3]]", "reward: [[.nan, 0.6, 0.3]]", r"line 1"),
        ("reward: [[1.0, 0.6, 0.3]]", "reward: [1.0, 0.6, 0.3]", r"line 1: reward\.0: .*valid list"),
        ("reward: [[1.0, 0.6, 0.3]]", "reward: [[1.0]]", r"line 1: reward\.0: .*at least 2"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(written, old, new, message):
    assert old in EXAMPLE
    with pytest.raises(UserError, match=message) as caught:
        InstanceFile.read(written(EXAMPLE.replace(old, new)))
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml.*keys reward, mu, scale and n"):
        InstanceFile.read(tmp_path / "nowhere.yaml")


def test_a_batch_scores_several_prompts_with_their_probabilities():
    instance = Instance(np.array([[1.0, 0.0], [0.0, 0.5]]), np.full((2, 2), 0.5), np.array([0.75, 0.25]))
    batch = Batch([(instance, 10, 1), (instance, 20, 1)])
    policy = np.array([1.0, 0, 0, 1, 0, 1, 1, 0])
    assert batch.suboptimality(policy) == pytest.approx([0, 0.75 + 0.125])


@pytest.mark.theory
def test_an_instance_is_compared_and_a_finished_comparison_is_kept(written, tmp_path, monkeypatch):
    out, file = tmp_path / "out", written(THREE_PROMPTS)
    report = runner.run_instance(file, out=out, seeds=3)
    assert sorted(report.files) == ["instance.json", "instance.png", "instance.svg", "table.md"]
    assert all((out / name).is_file() for name in report.files)
    curves = {curve["method"]: np.array(curve["values"]) for curve in report.result["curves"]}
    assert {"SPAC-T", "χPO", "RPO", "DPO"} <= set(curves)
    assert all(np.isfinite(values).all() and values.shape == (2, 3) for values in curves.values())
    batch = Batch([(InstanceFile.read(file).instance(), 300, seed) for seed in (101, 102, 103)])
    assert curves["SPAC-T"][1] == pytest.approx(batch.suboptimality(batch.run_spac_t(iterations=100).mixture), abs=1e-6)
    assert curves["SPAC-T"][1].mean() < curves["SPAC-T"][0].mean()
    written_at = (out / "instance.json").stat().st_mtime_ns
    assert runner.run_instance(file, out=out, seeds=3).result == report.result
    assert (out / "instance.json").stat().st_mtime_ns == written_at
    changed = written(THREE_PROMPTS.replace("scale: 2", "scale: 3"))
    assert runner.run_instance(changed, out=out, seeds=3).result["settings"]["scale"] == 3
    assert (out / "instance.json").stat().st_mtime_ns != written_at
