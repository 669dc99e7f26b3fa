"""What a finished run is handed on with: the last policy's card, and metadata that the validator of their profile accepts."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import ModelCard

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.publish import research_object
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA, Manifest
from spac_repro.runs.results import IterateScores, Results, Score
from spac_repro.runs.verdict import ScoreComparison, ScoreKey, Verdict
from spac_repro.trust import rerun

SCORES = (Score("gold", "reward", 0.6, 0.01, 500), Score("average", "mean", 0.7, None, 600))


RUN = recipes.load("tiny", overrides=["training.iterations=1"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, its weights left out."""
    its = RUN
    folder = tmp_path / "run"
    environment = {
        "package": "0.1.0",
        "libraries": {"torch": "2.13.0", "deepspeed": None},
        "source": {"commit": "c0ffee", "changed": False},
    }
    manifest = {
        "schema": SCHEMA,
        "recipe": "tiny",
        "method": "spac",
        "seed": 0,
        "settings": its.settings(),
        "settings_sha256": its.settings_sha256,
        "provenance": {key: source.__dict__ for key, source in its.provenance.items()},
        "inputs": {"preferences": 2000, "preferences_sha256": "a" * 64, "policy_sha256": None},
        "environment": environment,
        "segments": [],
    }
    results = Results(
        recipe="tiny",
        method="spac",
        seed=0,
        complete=True,
        settings_sha256=its.settings_sha256,
        weights_sha256="w" * 64,
        iterations=tuple(IterateScores(iteration=t, weights_sha256="w" * 64, scores=SCORES) for t in (0, 1)),
    )
    row = ScoreComparison(ScoreKey("spac", "gold", "reward", 1), True, "measured", 0.61, 0.6, 1, 0.02, None, None)
    verdict = Verdict("tiny", "verified", "1 of 1 primary rows agree", 0.01, comparisons=(row,))
    for name, content in (
        ("manifest.json", manifest),
        ("results.json", results.as_json()),
        ("timing.json", []),
    ):
        files.write_json(folder / name, content)
    RunFolder(folder).write_verdict(verdict)
    (folder / "metrics.jsonl").write_text("")
    for t in (0, 1):
        (folder / f"iteration-{t}" / "policy").mkdir(parents=True)
    return folder


def test_the_card_holds_the_reproduction_table_licence_and_limits(run: Path) -> None:
    research_object.publish_run(run, RUN)
    card = ModelCard.load(run / "iteration-1" / "policy" / "README.md")
    assert card.data.license == "apache-2.0"
    assert [(result.dataset_name, result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("gold", "reward", 0.6),
        ("average", "mean", 0.7),
    ]
    assert "Verdict: **verified**. 1 of 1 primary rows agree" in card.text
    assert "| gold | reward | 500 | 0.600 ± 0.010 | 0.600 ± 0.010 | 0.610 ± 0.020 | agrees |" in card.text
    assert "| average | mean | 600 | 0.700 | 0.700 | no row |  |" in card.text
    assert "## Limits" in card.text
    assert "## Licence" in card.text
    assert not (run / "iteration-0" / "policy" / "README.md").exists(), "only the last policy's card is made again"


def test_other_base_models_keep_their_licence() -> None:
    from spac_repro.publish.model_card import model_card

    text = model_card(recipes.load("zephyr-7b"), 1)
    assert "license: other" in text
    assert "that of the base model" in text
    assert "base_model: alignment-handbook/zephyr-7b-sft-full" in text


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator fetches the crate's JSON-LD context; the rocrate library has a copy (of a later version)."""
    from rocrate_validator.utils.http import HttpRequester

    content = (resources.files("rocrate") / "data" / "ro-crate.jsonld").read_bytes()

    def get(*_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = 200
        response._content = content
        response.headers["Content-Type"] = "application/ld+json"
        return response

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)
    monkeypatch.setattr(HttpRequester, "head", get, raising=False)


def problems(folder: Path) -> list[str]:
    from rocrate_validator import models, services

    severity = models.Severity.REQUIRED
    settings = services.ValidationSettings(
        rocrate_uri=str(folder), profile_identifier="process-run-crate", requirement_severity=severity
    )
    return [str(issue.message) for issue in services.validate(settings).get_issues()]


def test_the_metadata_conform_to_the_process_run_profile(run: Path, offline: None) -> None:
    research_object.publish_run(run, RUN)
    assert problems(run) == []
    metadata = json.loads((run / "ro-crate-metadata.json").read_text())
    metadata["@graph"] = [entity for entity in metadata["@graph"] if entity["@id"] != "#spac-repro"]
    (action,) = (entity for entity in metadata["@graph"] if entity["@id"] == "#run")
    del action["instrument"]
    files.write_json(run / "ro-crate-metadata.json", metadata)
    assert problems(run), "a crate whose action names no software must be refused"


def test_every_file_named_exists_and_no_absolute_path_is_recorded(run: Path) -> None:
    research_object.publish_run(run, RUN)
    text = (run / "ro-crate-metadata.json").read_text()
    assert str(run) not in text
    for entity in json.loads(text)["@graph"]:
        if entity["@type"] in ("File", "Dataset") and not entity["@id"].startswith("#"):
            assert (run / entity["@id"]).exists()


# Repeating a run from its manifest (the whole of it is an e2e test)


def test_the_run_of_a_manifest_is_the_run_that_made_it(run: Path) -> None:
    its = recipes.load("tiny", overrides=["training.iterations=1"])
    again = rerun.recorded_run(run)
    assert (again.settings(), again.settings_sha256, again.method, again.seed) == (its.settings(), its.settings_sha256, "spac", 0)
    assert again.method_settings == its.method_settings


def test_a_manifest_changed_by_hand_or_of_another_version_is_refused(run: Path) -> None:
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["methods"]["spac"]["beta"] = 2.0
    files.write_json(path, manifest)
    with pytest.raises(UserError, match="changed by hand"):
        rerun.recorded_run(run)
    manifest["settings"]["training"]["momentum"] = 0.9
    files.write_json(path, manifest)
    with pytest.raises(UserError, match=r"settings\.training\.momentum: .*another version"):
        rerun.recorded_run(run)


def test_other_inputs_are_refused_and_another_environment_as_told(run: Path) -> None:
    here = json.loads((run / "manifest.json").read_text())
    said: list[str] = []
    rerun.manifest_check(run, allow_changed=False, say=said.append)(Manifest.model_validate(here))
    assert said == []
    here["environment"]["source"]["commit"] = "beef"
    with pytest.raises(UserError, match=r"environment\.source\.commit is 'c0ffee' there and 'beef' here") as refused:
        rerun.manifest_check(run, allow_changed=False, say=said.append)(Manifest.model_validate(here))
    assert refused.value.exit_code == 3
    assert len(said) == 1
    rerun.manifest_check(run, allow_changed=True, say=said.append)(Manifest.model_validate(here))
    here["inputs"]["preferences_sha256"] = "b" * 64
    with pytest.raises(UserError, match="give the same preferences") as refused:
        rerun.manifest_check(run, allow_changed=True, say=said.append)(Manifest.model_validate(here))
    assert refused.value.exit_code == 2
