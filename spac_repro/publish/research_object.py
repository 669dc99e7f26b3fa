"""Metadata of a finished run: the model card of its last policy, and the run folder as a research object (RO-Crate).

The RO-Crate follows the Process Run profile: which action was carried out, by which software, on which inputs, with which outputs.
It contains the date. Equal runs may differ in it, in timing.json, and in the TensorBoard files, which hold wall times.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spac_repro.publish.model_card import LICENCES, model_card
from spac_repro.recipe import Run
from spac_repro.runs import file_hashes, files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD
from spac_repro.runs.manifest import Manifest

PROFILES = ("https://w3id.org/ro/wfrun/process/0.5",)
JSON, JSON_LINES = "application/json", "application/jsonl"


def publish_run(folder: Path, run: Run) -> None:
    """Write the model card of the last policy and the RO-Crate metadata of the run folder.

    Args:
        folder: The folder of the finished run.
        run: The run that the folder contains.

    Raises:
        UserError: The run is not complete.
    """
    run_folder = file_hashes.open_checked(folder)
    results, verdict = run_folder.results, run_folder.verdict()
    last = run_folder.iteration(results.iterations[-1].iteration)
    if last.has_policy:
        files.write_bytes(last.policy / CARD, model_card(run, last.number, results, verdict, audit=last.audit()).encode())
    files.write_json(run_folder.ro_crate_file, ro_crate_metadata(run_folder, last.number))


def ro_crate_metadata(folder: RunFolder, last: int) -> dict[str, Any]:
    """Return the RO-Crate metadata of a run folder in JSON-LD; `last` is the number of the last iteration."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    manifest = folder.manifest
    source = manifest.settings["policy"]
    name = f"{manifest.recipe}, {manifest.method}, seed {manifest.seed}"
    crate = ROCrate(version="1.1")  # what the profile is about
    crate.name = f"spac-repro run: {name}"
    crate.description = (
        f"Preference optimization by {manifest.method} and the evaluation of every iterate, carried out by spac-repro"
    )
    crate.license = (
        "https://spdx.org/licenses/Apache-2.0" if source["source"] == "random" or source.get("name") in LICENCES else "other"
    )
    crate.datePublished = datetime.now(UTC).date()
    for profile in PROFILES:
        profile_properties = {"@type": "CreativeWork", "name": "Process Run Crate", "version": profile.rsplit("/", 1)[-1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, profile, properties=profile_properties)))
    software = crate.add(ContextEntity(crate, "#spac-repro", properties=_software(manifest)))
    outputs = []
    for path, properties in _outputs(folder, last):
        add, place = (crate.add_directory, f"{path.name}/") if path.is_dir() else (crate.add_file, path.name)
        outputs.append(add(path, dest_path=place, properties={"name": place, **properties}))
    inputs = [crate.add(ContextEntity(crate, identifier, properties=properties)) for identifier, properties in _inputs(manifest)]
    action = {
        "@type": "CreateAction",
        "name": f"spac-repro train: {name}",
        "description": "start policy, self-play iterations, scores of every iterate, verdict",
        "endTime": datetime.now(UTC).date().isoformat(),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    run = crate.add(ContextEntity(crate, "#run", properties=action))
    run["instrument"], run["object"], run["result"] = software, inputs, outputs
    crate.root_dataset.append_to("mentions", run)
    return dict(crate.metadata.generate())


def _outputs(folder: RunFolder, last: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the files and folders of the run that exist, with their descriptions."""
    for file, kind, text in (
        (folder.manifest_file, JSON, "what identifies the run: settings, inputs, environment"),
        (folder.results_file, JSON, "scores of the start policy and of every iterate; the hash of the weights"),
        (folder.verdict_file, JSON, "the verdict of verification"),
        (folder.metrics_file, JSON_LINES, "one line an optimizer step"),
        (folder.timing_file, JSON, "how long each stage took"),
    ):
        if file.exists():
            yield file, {"description": text, "encodingFormat": kind}
    for t in range(last + 1):
        if folder.iteration(t).path.is_dir():
            text = "the start policy" if t == 0 else f"self-play, scores and weights of iterate {t}"
            yield folder.iteration(t).path, {"description": text}


def _software(manifest: Manifest) -> dict[str, Any]:
    environment = manifest.environment
    source = environment.get("source") or {}
    return {
        "@type": "SoftwareApplication",
        "name": "spac-repro",
        "url": "https://arxiv.org/abs/2406.04274",
        "softwareVersion": f"{environment.get('package')}" + (f", commit {source['commit']}" if source.get("commit") else ""),
        "softwareRequirements": ", ".join(
            f"{name} {version}" for name, version in environment.get("libraries", {}).items() if version
        ),
    }


def _inputs(manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """Return the inputs with their hashes; the files themselves are not in the run folder."""
    inputs, settings = manifest.inputs, manifest.settings
    preferences = {
        "@type": "Dataset",
        "name": f"{inputs.get('preferences')} preferences",
        "description": f"prompt, chosen, rejected; source {settings['data']['source']}",
        "sha256": inputs.get("preferences_sha256"),
    }
    policy = {
        "@type": "CreativeWork",
        "name": f"policy before training: {settings['policy'].get('name', 'a model folder')}",
        "version": settings["policy"].get("revision") or "none",
        "sha256": inputs.get("policy_sha256") or "drawn from the seed",
    }
    return [("#preferences", preferences), ("#policy", policy)]
