"""What a finished run is handed on with: the last policy's card with its reproduction table, and research-object metadata.

The metadata describe the run folder as an RO-Crate of the Process Run profile: what was carried out, by which software, from what,
with what result. Beside the times it is the one file in which equal runs may differ: it holds the day.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spac_repro.publish.model_card import LICENCES, card
from spac_repro.recipe import Run
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD
from spac_repro.runs.manifest import Manifest

PROFILES = ("https://w3id.org/ro/wfrun/process/0.5",)
JSON, JSON_LINES = "application/json", "application/jsonl"


def publish(folder: Path, its: Run) -> None:
    """Write the last policy's card and the folder's metadata. `its` is the run that the folder holds.

    Raises:
        UserError: the run is not complete.
    """
    run = RunFolder.open(folder)
    results, verdict = run.results, run.verdict()
    last = run.iteration(results.iterations[-1].iteration)
    if last.has_policy:
        files.write_bytes(last.policy / CARD, card(its, last.number, results, verdict).encode())
    files.write_json(run.ro_crate_file, metadata(run, last.number))


def metadata(folder: RunFolder, last: int) -> dict[str, Any]:
    """The folder as an RO-Crate, in JSON-LD; `last` is the last iteration."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    its = folder.manifest
    source = its.settings["policy"]
    name = f"{its.recipe}, {its.method}, seed {its.seed}"
    crate = ROCrate(version="1.1")  # what the profile is about
    crate.name = f"spac-repro run: {name}"
    crate.description = f"Preference optimisation by {its.method} and the evaluation of every iterate, carried out by spac-repro"
    crate.license = (
        "https://spdx.org/licenses/Apache-2.0" if source["source"] == "random" or source["name"] in LICENCES else "other"
    )
    crate.datePublished = datetime.now(UTC).date()
    for profile in PROFILES:
        known = {"@type": "CreativeWork", "name": "Process Run Crate", "version": profile.rsplit("/", 1)[-1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, profile, properties=known)))
    software = crate.add(ContextEntity(crate, "#spac-repro", properties=_software(its)))
    outputs = []
    for path, properties in _outputs(folder, last):
        add, place = (crate.add_directory, f"{path.name}/") if path.is_dir() else (crate.add_file, path.name)
        outputs.append(add(path, dest_path=place, properties={"name": place, **properties}))
    read = [crate.add(ContextEntity(crate, identifier, properties=properties)) for identifier, properties in _inputs(its)]
    action = {
        "@type": "CreateAction",
        "name": f"spac-repro train: {name}",
        "description": "start, self-play iterations, scores of every iterate, verdict",
        "endTime": datetime.now(UTC).date().isoformat(),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    run = crate.add(ContextEntity(crate, "#run", properties=action))
    run["instrument"], run["object"], run["result"] = software, read, outputs
    crate.root_dataset.append_to("mentions", run)
    return dict(crate.metadata.generate())


def _outputs(folder: RunFolder, last: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """What the run left, as far as it is there, and what that is."""
    for file, kind, text in (
        (folder.manifest_file, JSON, "what identifies the run: settings, inputs, environment"),
        (folder.results_file, JSON, "scores of the start and of every iterate; the hash of the weights"),
        (folder.verdict_file, JSON, "what verification said"),
        (folder.metrics_file, JSON_LINES, "one line an optimiser step"),
        (folder.timing_file, JSON, "how long each stage took"),
    ):
        if file.exists():
            yield file, {"description": text, "encodingFormat": kind}
    for t in range(last + 1):
        if folder.iteration(t).path.is_dir():
            text = "the start" if t == 0 else f"self-play, scores and weights of iterate {t}"
            yield folder.iteration(t).path, {"description": text}


def _software(its: Manifest) -> dict[str, Any]:
    environment = its.environment
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


def _inputs(its: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """What was read, by hash; the files themselves are not in the folder."""
    inputs, settings = its.inputs, its.settings
    preferences = {
        "@type": "Dataset",
        "name": f"{inputs.get('preferences')} preferences",
        "description": f"prompt, chosen, rejected; source {settings['data']['source']}",
        "sha256": inputs.get("preferences_sha256"),
    }
    policy = {
        "@type": "CreativeWork",
        "name": f"policy before training: {settings['policy']['name']}",
        "version": settings["policy"].get("revision") or "none",
        "sha256": inputs.get("policy_sha256") or "drawn from the seed",
    }
    return [("#preferences", preferences), ("#policy", policy)]
