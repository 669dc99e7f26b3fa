"""What a finished run is handed on with: the last policy's card with its reproduction table, and research-object metadata.

ro-crate-metadata.json describes the run folder as an RO-Crate of the Process Run profile: what was carried out, by which software,
from what, with what result. Beside timing.json it is the one file in which equal runs may differ: it holds the day.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spac_repro.publish.model_card import LICENCES, card
from spac_repro.runs import files
from spac_repro.trust.comparison import manifest
from spac_repro.trust.replay import run_of

PROFILES = ("https://w3id.org/ro/wfrun/process/0.5",)
JSON, JSON_LINES = "application/json", "application/jsonl"
FILES = {
    "manifest.json": (JSON, "what identifies the run: settings, inputs, environment"),
    "results.json": (JSON, "scores of the start and of every iterate; the hash of the weights"),
    "verdict.json": (JSON, "what verification said"),
    "metrics.jsonl": (JSON_LINES, "one line an optimiser step"),
    "timing.json": (JSON, "how long each stage took"),
}


def publish(folder: Path) -> None:
    """Write the last policy's card and the folder's metadata.

    Raises:
        UserError: the run is not complete.
    """
    results = files.read_json(folder / "results.json")
    verdict = files.read_json(folder / "verdict.json")
    last = results["iterations"][-1]["iteration"]
    run = run_of(folder)
    policy = folder / f"iteration-{last}" / "policy"
    if policy.is_dir():
        files.write_bytes(policy / "README.md", card(run, last, results, verdict).encode())
    files.write_json(folder / "ro-crate-metadata.json", metadata(folder, last))


def metadata(folder: Path, last: int) -> dict[str, Any]:
    """The folder as an RO-Crate, in JSON-LD."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    its = manifest(folder)
    source = its["settings"]["policy"]
    name = f"{its['recipe']}, {its['method']}, seed {its['seed']}"
    crate = ROCrate(version="1.1")  # what the profile is about
    crate.name = f"spac-repro run: {name}"
    crate.description = f"Preference optimisation by {its['method']} and the evaluation of every iterate, carried out by spac-repro"
    crate.license = (
        "https://spdx.org/licenses/Apache-2.0" if source["source"] == "random" or source["name"] in LICENCES else "other"
    )
    crate.datePublished = datetime.now(UTC).date()
    for profile in PROFILES:
        known = {"@type": "CreativeWork", "name": "Process Run Crate", "version": profile.rsplit("/", 1)[-1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, profile, properties=known)))
    software = crate.add(ContextEntity(crate, "#spac-repro", properties=_software(its)))
    outputs = [
        crate.add_file(folder / file, dest_path=file, properties={"name": file, "description": text, "encodingFormat": kind})
        for file, (kind, text) in FILES.items()
        if (folder / file).exists()
    ]
    for t in range(last + 1):
        place = f"iteration-{t}/"
        if (folder / place).is_dir():
            text = "the start" if t == 0 else f"self-play, scores and weights of iterate {t}"
            outputs.append(crate.add_directory(folder / place, dest_path=place, properties={"name": place, "description": text}))
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


def _software(its: dict[str, Any]) -> dict[str, Any]:
    environment = its["environment"]
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


def _inputs(its: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What was read, by hash; the files themselves are not in the folder."""
    inputs, settings = its["inputs"], its["settings"]
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
