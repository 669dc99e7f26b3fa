"""What the tests of trust/ share: run folders made by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA
from spac_repro.runs.results import IterateScores, Results, Score

SETTINGS: dict[str, Any] = {
    "method": "spac",
    "name": "tiny",
    "methods": {"spac": {"beta": 1.0, "learning_rate": 3e-5}},
    "policy": {"dtype": "float32"},
    "data": {"prompt_template": "plain"},
    "selfplay": {"temperature": 1.0},
    "training": {"engine": "accelerate", "epochs_per_iteration": 1},
}


@pytest.fixture
def make() -> Callable[..., Path]:
    """Makes a run folder."""
    return _make


def _make(folder: Path, *, seed: int = 0, scores: dict[int, float] | None = None, n: int = 100, **changes: Any) -> Path:
    """A run folder with a manifest and a score for each iteration given."""
    settings = json.loads(json.dumps(SETTINGS))
    inputs: dict[str, Any] = {"preferences": 2, "preferences_sha256": "a" * 64, "tokenizer_sha256": "b" * 64}
    environment: dict[str, Any] = {"threads": 1, "cpu": "x", "libraries": {"torch": "2.13.0", "deepspeed": "0.19.8"}}
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "recipe": "tiny",
        "method": "spac",
        "seed": seed,
        "settings": settings,
        "settings_sha256": "same",
        "inputs": inputs,
        "environment": environment,
        "segments": [],
    }
    for key, value in changes.items():
        *groups, leaf = key.split("__")
        node = manifest
        for group in groups:
            node = node[group]
        node[leaf] = value
    run = RunFolder(folder)
    files.write_json(run.manifest_file, manifest)
    iterates = []
    for t, value in (scores or {}).items():
        score = Score("gold", "reward", value, stderr=0.01, n=n, version="1")
        files.write_json(run.iteration(t).scores_file, [score.as_dict()])
        iterates.append(IterateScores(iteration=t, weights_sha256="w", scores=(score,)))
    if iterates:
        results = Results(
            recipe=manifest["recipe"],
            method=manifest["method"],
            seed=manifest["seed"],
            complete=True,
            settings_sha256=manifest["settings_sha256"],
            weights_sha256="w",
            harness="lm_eval 0.4.13",
            iterations=tuple(iterates),
        )
        files.write_json(run.results_file, results.as_json())
    return folder
