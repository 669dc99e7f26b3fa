"""Where two runs first differ."""

import json
from collections.abc import Callable
from pathlib import Path

from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.trust.first_difference import find_first_difference

Make = Callable[..., Path]


def test_an_unfinished_run_is_compared_as_far_as_it_goes(make: Make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", scores={0: 0.5, 1: 0.6}), make(tmp_path / "b")
    lines = [{"iteration": 0, "step": step, "loss": 1.0 / step} for step in range(1, 5)]
    (a / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (b / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]) + '{"iteration": 0, "st')
    found = find_first_difference(RunFolder(a), RunFolder(b))
    assert found.training is None
    assert found.equal_up_to == "step 2 of iteration 0"
    assert "B has no step 3 of iteration 0" in found.unfinished


def test_a_score_that_differs_before_the_training_does_is_reported_too(make: Make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", scores={0: 0.5, 1: 0.5}), make(tmp_path / "b", scores={0: 0.4, 1: 0.5})
    for folder, loss in ((a, 1.0), (b, 2.0)):
        (folder / "metrics.jsonl").write_text(json.dumps({"iteration": 1, "step": 1, "loss": loss}) + "\n")
    found = find_first_difference(RunFolder(a), RunFolder(b))
    assert found.training is not None
    assert found.scores is not None
    assert (found.training.iteration, found.scores.iteration) == (1, 0)


def test_weights_of_equal_hashes_are_not_read(make: Make, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    for folder, sha256 in ((one, "h"), (other, "h")):
        policy = folder / "iteration-0" / "policy"
        policy.mkdir(parents=True)
        save_file({"w": np.zeros(3, np.float32)}, policy / "model.safetensors")
        files.write_json(policy / "fingerprint.json", {"weights_sha256": sha256})
    assert find_first_difference(RunFolder(one), RunFolder(other)).weight_bytes_read == 0
    files.write_json(other / "iteration-0" / "policy" / "fingerprint.json", {"weights_sha256": "other"})
    assert find_first_difference(RunFolder(one), RunFolder(other)).weight_bytes_read == 2 * 3 * 4
