"""The texts of an archive: README, citation, and metadata for a deposit. All of them follow from the runs and from the caller."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spac_repro import __version__
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.train_command import train_command

PAPER = "Self-Play with Adversarial Critic: Provable and Scalable Offline Alignment for Language Models"
PAPER_AUTHORS = ("Ji, Xiang", "Kulkarni, Sanjeev", "Wang, Mengdi", "Xie, Tengyang")
ARXIV = "2406.04274"
OPEN = "TO BE FILLED IN"  # by the authors of a deposit
_RUN = RunFolder(Path())  # for the names of its files


@dataclass(frozen=True)
class Deposit:
    """What the authors of a deposit say about it; what they leave open is marked in the texts."""

    title: str = ""
    creators: tuple[str, ...] = ()  # "Family, Given"
    licence: str = ""  # an SPDX identifier


@dataclass(frozen=True)
class RunFacts:
    """What the texts say about one run."""

    folder: str  # in the archive
    recipe: str
    method: str
    seed: int
    settings_sha256: str | None
    weights_sha256: str
    command: str  # that repeats it
    scores: Mapping[str, float]  # of the last iterate
    verdict: str  # of this run alone
    image: str | None
    commit: str | None
    lock_sha256: str | None
    hardware: str
    hours: float | None
    sources: tuple[str, str]  # of the preferences and of the policy
    date: str | None  # of its metadata


@dataclass(frozen=True)
class Facts:
    """What the texts say about all runs."""

    runs: tuple[RunFacts, ...]
    weights: bool
    seeds: Mapping[tuple[str, str, str | None], int] = field(default_factory=dict)  # by recipe, method and settings

    @classmethod
    def of(cls, runs: Mapping[str, RunFolder], weights: bool, verdicts: Mapping[str, str]) -> "Facts":
        """The facts of runs, by their folder in the archive; each with its verdict."""
        facts = tuple(_run_facts(folder, run, verdicts[folder]) for folder, run in runs.items())
        groups = [(each.recipe, each.method, each.settings_sha256) for each in facts]
        return cls(facts, weights, {group: groups.count(group) for group in dict.fromkeys(groups)})

    @property
    def recipes(self) -> list[str]:
        """The names of the recipes."""
        return sorted({run.recipe for run in self.runs})

    @property
    def fewest_seeds(self) -> int:
        """The seeds of the method and settings that has the fewest."""
        return min(self.seeds.values())

    def as_json(self) -> dict[str, Any]:
        """The content of the index."""
        keys = ("recipe", "method", "seed", "settings_sha256", "weights_sha256", "image", "commit", "lock_sha256", "verdict")
        runs = [{"folder": run.folder, **{key: getattr(run, key) for key in keys}} for run in self.runs]
        return {"package": __version__, "weights": self.weights, "runs": runs}


def _run_facts(folder: str, run: RunFolder, verdict: str) -> RunFacts:
    manifest, environment, last = run.manifest, run.manifest.environment, run.results.iterations[-1]
    timing, settings = run.timing(), manifest.settings
    crate = files.read_json(run.ro_crate_file) if run.ro_crate_file.exists() else {}
    dates = [node["datePublished"] for node in crate.get("@graph", []) if isinstance(node.get("datePublished"), str)]
    gpus = environment.get("gpus") or []
    return RunFacts(
        folder=folder,
        recipe=manifest.recipe,
        method=manifest.method,
        seed=manifest.seed,
        settings_sha256=manifest.settings_sha256,
        weights_sha256=last.weights_sha256,
        command=train_command(run.manifest),
        scores={f"{score.task} {score.metric}": score.value for score in last.scores},
        verdict=verdict,
        image=environment.get("image"),
        commit=(environment.get("source") or {}).get("commit"),
        lock_sha256=(environment.get("lock") or {}).get("sha256"),
        hardware=", ".join(str(part) for part in (environment.get("cpu"), *gpus) if part) or "not recorded",
        hours=sum(stage.seconds for stage in timing) / 3600 if timing else None,
        sources=(_source(settings, "data"), _source(settings, "policy")),
        date=max(dates, default=None),
    )


def _source(settings: Mapping[str, Any], group: str) -> str:
    return str((settings.get(group) or {}).get("source", "not recorded"))


def texts(facts: Facts, deposit: Deposit) -> dict[str, bytes]:
    """The texts by file name."""
    return {
        "README.md": _readme(facts).encode(),
        "CITATION.cff": _citation(deposit).encode(),
        "datacite.json": json_bytes(_datacite(facts, deposit)),
        "zenodo.json": json_bytes(_zenodo(facts, deposit)),
        _RUN.ro_crate_file.name: json_bytes(_crate(facts, deposit)),
    }


def json_bytes(content: Any) -> bytes:
    """JSON with sorted keys: equal content gives equal bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _title(facts: Facts, deposit: Deposit) -> str:
    methods = ", ".join(sorted({run.method for run in facts.runs}))
    return deposit.title or f"Runs of spac-repro: {', '.join(facts.recipes)} ({methods})"


def _description(facts: Facts) -> str:
    return (
        f"{len(facts.runs)} runs of spac-repro {__version__}, a reproduction of SPAC (arXiv {ARXIV}): manifests, scores, answers, "
        "samples, metrics, expected results and lock files, each with its SHA-256. "
        f"{'Weights are included.' if facts.weights else 'Weights are not included; their hashes are.'}"
    )


def _introduction(facts: Facts) -> list[str]:
    return [
        "# What this archive is",
        "",
        _description(facts),
        "The file is a ZIP file. Nothing in it has to be installed to be read.",
        "",
        "| what | where |",
        "| --- | --- |",
        f"| settings, inputs, environment and file hashes of a run | {_RUN.manifest_file.name} in its folder |",
        f"| scores of every iterate, and the hash of its weights | {_RUN.results_file.name} |",
        f"| one row a question: answer, gold, metrics (where kept) | {_RUN.iteration(0).answers_file.name} of an iteration |",
        f"| responses of every iterate to the first prompts | {_RUN.iteration(0).samples_file.name} of an iteration |",
        f"| one line an optimizer step; time of each stage | {_RUN.metrics_file.name}, {_RUN.timing_file.name} |",
        "| what the scores are compared with, with sources and tolerances | expected_results/ |",
        "| every package that was used, with version and hash | requirements/*.lock |",
        "| answers to questions of artefact and paper checklists, as far as runs can answer them | checklists.md |",
        "| how to cite; metadata for a deposit | CITATION.cff, datacite.json, zenodo.json |",
        f"| metadata as RO-Crate: of the archive, and of each run | {_RUN.ro_crate_file.name}, here and in a run's folder |",
        "| the SHA-256 of every file | SHA256SUMS |",
        "",
        "## Check that nothing was altered",
        "",
        "Unpack the file and run `sha256sum --check SHA256SUMS` in its folder. Somebody who alters a file and SHA256SUMS together",
        "is found only by the hash of the archive itself, which `spac-repro archive` printed: publish it beside the archive.",
        "",
        "## Check the claim",
        "",
        f"Install spac-repro {__version__} from its source with requirements/base.lock, then:",
        "",
        "    spac-repro verify ARCHIVE.zip",
        "",
        "checks every file, and compares the scores with the expected results. To repeat a run, use its command below, in the",
        "image or with the packages that its manifest names. `spac-repro compare` says where two runs first differ.",
        "",
        "## Runs",
    ]


def _readme(facts: Facts) -> str:
    lines = _introduction(facts)
    for run in facts.runs:
        hours = "not recorded" if run.hours is None else f"{run.hours:.3g}"
        lines += [
            "",
            f"### {run.folder}",
            "",
            f"- Verdict when it was archived, this run alone: {run.verdict}",
            f"- Command: `{_plain(run.command)}`",
            f"- Commit: {_plain(run.commit or 'not recorded')}; image: {_plain(run.image or 'none')}",
            f"- Hardware: {_plain(run.hardware)}; hours, all attempts: {hours}",
            f"- Weights of the last iterate: SHA-256 {run.weights_sha256}",
            *(f"- {_plain(name)} of the last iterate: {value:.4f}" for name, value in run.scores.items()),
        ]
    lines += ["", "## What is not here", ""]
    if not facts.weights:
        lines.append("Weights, and preferences with self-play responses: `spac-repro archive --weights` includes them.")
    lines += [
        "The preferences and questions that the runs read have their own licences, and are named by hash in the manifests.",
        "",
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text from a manifest on one line, without what Markdown would take for a format."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable() and character not in "`<>|[]")


def _citation(deposit: Deposit) -> str:
    quoted = [json.dumps(name, ensure_ascii=False) for name in deposit.creators or (OPEN,)]
    paper = [json.dumps(name, ensure_ascii=False) for name in PAPER_AUTHORS]
    licence = [f"license: {json.dumps(deposit.licence)}"] if deposit.licence else []
    return "\n".join(
        [
            "cff-version: 1.2.0",
            "message: If you use these runs, please cite this archive and the paper whose method they repeat.",
            f"title: {json.dumps(deposit.title or 'Runs of spac-repro', ensure_ascii=False)}",
            "type: dataset",
            *licence,
            "authors:",
            *(f"  - name: {name}" for name in quoted),
            "references:",
            "  - type: article",
            f"    title: {json.dumps(PAPER)}",
            "    authors:",
            *(f"      - name: {name}" for name in paper),
            "    year: 2024",
            "    identifiers:",
            f"      - {{type: other, value: arXiv:{ARXIV}}}",
            "",
        ]
    )


def _year(facts: Facts) -> str | None:
    dates = [run.date for run in facts.runs if run.date]
    return max(dates)[:4] if dates else None


def _names(creators: Sequence[str]) -> list[str]:
    return list(creators) or [OPEN]


def _datacite(facts: Facts, deposit: Deposit) -> dict[str, Any]:
    """Attributes of the DataCite Metadata Schema 4.5 (https://schema.datacite.org), as its API takes them."""
    return {
        "schemaVersion": "http://datacite.org/schema/kernel-4",
        "creators": [{"name": name} for name in _names(deposit.creators)],
        "titles": [{"title": _title(facts, deposit)}],
        "publisher": OPEN,
        "publicationYear": _year(facts) or OPEN,
        "types": {"resourceTypeGeneral": "Dataset", "resourceType": "runs of a machine-learning experiment"},
        "descriptions": [{"description": _description(facts), "descriptionType": "Abstract"}],
        "subjects": [{"subject": subject} for subject in ("reproducibility", "preference optimization", "language models")],
        "relatedIdentifiers": [
            {"relatedIdentifier": f"arXiv:{ARXIV}", "relatedIdentifierType": "arXiv", "relationType": "IsSupplementTo"}
        ],
        "rightsList": [{"rightsIdentifier": deposit.licence, "rightsIdentifierScheme": "SPDX"}] if deposit.licence else [],
        "formats": ["application/zip"],
        "version": __version__,
    }


def _zenodo(facts: Facts, deposit: Deposit) -> dict[str, Any]:
    """Metadata of a deposition, with the fields of Zenodo's REST API (https://developers.zenodo.org)."""
    return {
        "metadata": {
            "upload_type": "dataset",
            "title": _title(facts, deposit),
            "creators": [{"name": name} for name in _names(deposit.creators)],
            "description": _description(facts),
            "access_right": "open",
            "license": deposit.licence or OPEN,
            "keywords": ["reproducibility", "preference optimization", "language models"],
            "related_identifiers": [{"identifier": f"arXiv:{ARXIV}", "relation": "isSupplementTo"}],
            "version": __version__,
        }
    }


def _crate(facts: Facts, deposit: Deposit) -> dict[str, Any]:
    """The archive as an RO-Crate 1.1, whose parts are the runs; each run's own crate is in its folder."""
    dates = [run.date for run in facts.runs if run.date]
    parts = [{"@id": f"{run.folder}/"} for run in facts.runs]
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": _title(facts, deposit),
        "description": _description(facts),
        "license": deposit.licence or OPEN,
        "hasPart": parts,
    }
    root |= {"datePublished": max(dates)} if dates else {}
    about: dict[str, Any] = {"@id": _RUN.ro_crate_file.name, "@type": "CreativeWork", "about": {"@id": "./"}}
    about["conformsTo"] = {"@id": "https://w3id.org/ro/crate/1.1"}
    folders = [
        {"@id": f"{run.folder}/", "@type": "Dataset", "name": f"{run.recipe}, {run.method}, seed {run.seed}"} for run in facts.runs
    ]
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": [about, root, *folders]}
