"""What an artefact committee needs to check a claim, in one file that opens without this package.

The file holds runs, the expected results that they are compared with, the lock files, and texts: what is in it, how to check it,
how to cite and deposit it, and answers to checklists as far as runs can answer. Weights and training data are left out by default;
their hashes are in the manifests. Equal runs give equal bytes, wherever they lie.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError
from spac_repro.progress import NoProgress, Progress
from spac_repro.publish import archive_format, archive_texts, checklists
from spac_repro.publish.archive_format import Content
from spac_repro.runs import file_hashes, files
from spac_repro.runs.folder import RunFolder, find_runs
from spac_repro.trust import verification
from spac_repro.trust.expected import expected_path, load_expected
from spac_repro.trust.run_scores import IncomparableError

SCHEMA = 1
INDEX = "archive.json"
LOCK = "lock"  # suffix of a file that pins packages


@dataclass(frozen=True)
class Archived:
    """What was written."""

    runs: int
    files: int
    bytes: int
    sha256: str  # of the archive itself


def archive(
    paths: Sequence[Path],
    output: Path,
    *,
    deposit: archive_texts.Deposit,
    expected: Path | None = None,
    weights: bool = False,
    progress: Progress | None = None,
) -> Archived:
    """Write finished runs into an archive.

    Args:
        paths: run folders, or folders of runs such as a sweep's.
        output: the file; must not exist.
        deposit: title, authors and licence.
        expected: a file of expected results, in place of the package's for the recipes.
        weights: include weights and training data.
        progress: what the progress is reported to.

    Raises:
        UserError: the output exists; a run is unfinished, damaged or named twice.
    """
    progress = progress or NoProgress()
    if output.exists():
        raise UserError(f"{output}: exists; nothing is overwritten: name another file")
    progress.start_stage("checking the runs")
    folders = list({run.path.resolve(): run for path in paths for run in find_runs(path)}.values())
    for index, run in enumerate(folders):
        if not run.complete or not run.results.complete:
            raise UserError(f"{run}: the run is unfinished; repeat its `train` command, or leave it out")
        file_hashes.check(run, deep=weights)
        progress.update(index + 1, len(folders))
    runs = _by_place(folders)
    contents: dict[str, Content] = {}
    for place, run in runs.items():
        contents |= {f"{place}/{path.relative_to(run.path).as_posix()}": path for path in _files(run, weights)}
    contents |= _expected(folders, expected) | _locks()
    facts = archive_texts.Facts.of(runs, weights, {place: _verdict(run, expected) for place, run in runs.items()})
    contents |= archive_texts.texts(facts, deposit)
    contents |= checklists.texts(facts)
    contents[INDEX] = archive_texts.json_bytes({"schema": SCHEMA, **facts.as_json()})
    progress.start_stage("writing the archive")
    with _explained(output), files.atomic_file(output) as file:
        archive_format.write(file, contents, progress.update)
    progress.start_stage("hashing the archive")
    return Archived(len(runs), len(contents) + 1, output.stat().st_size, files.sha256_file(output))


def _explained(output: Path) -> AbstractContextManager[None]:
    return files.explain_disk_errors(output.parent)


def _by_place(folders: Sequence[RunFolder]) -> dict[str, RunFolder]:
    """The runs by their folder in the archive, which follows from their manifests. Runs of several settings differ in a hash."""
    places: dict[str, list[RunFolder]] = {}
    for run in folders:
        parts = (run.manifest.recipe, run.manifest.method, f"seed-{run.manifest.seed}")
        places.setdefault("/".join(re.sub(r"[^A-Za-z0-9_.-]", "_", part) for part in ("runs", *parts)), []).append(run)
    found: dict[str, RunFolder] = {}
    for place, its in places.items():
        for run in its:
            name = place if len(its) == 1 else f"{place}-{run.manifest.identity_sha256()[:8]}"
            if name in found:
                raise UserError(f"{run}: is the same run as {found[name]}; name one of them")
            found[name] = run
    return dict(sorted(found.items()))


def _files(run: RunFolder, weights: bool) -> list[Path]:
    """The files of a run that go into an archive: what it wrote and what its commands read, and no link."""
    iterations = run.iterations()
    large = [path for each in iterations for path in (each.policy, each.dataset_file, each.heldout_file)]
    fixed = [run.manifest_file, run.results_file, run.verdict_file, run.metrics_file, run.timing_file, run.ro_crate_file]
    fixed += [run.contamination_file]
    for each in iterations:
        fixed += [each.scores_file, each.samples_file, each.audit_file, each.gold_file, each.answers_file]
        fixed += sorted(each.policy.rglob("*"))
    written = [run.path / name for name in run.manifest.written_files or {}]
    chosen = []
    for path in dict.fromkeys((*fixed, *written)):
        if not path.is_file() or (not weights and any(path.is_relative_to(place) for place in large)):
            continue
        if path.is_symlink() or not path.resolve().is_relative_to(run.path.resolve()):
            raise UserError(f"{path}: a link, or outside the run; a run's files are plain files in its folder")
        chosen.append(path)
    return chosen


def _expected(folders: Sequence[RunFolder], own: Path | None) -> dict[str, Content]:
    """The expected results of the runs' recipes, as far as there are any."""
    names = sorted({run.manifest.recipe for run in folders})
    paths = {name: expected_path(name) for name in names}
    if own is not None:
        recipe = load_expected(own).recipe
        if recipe not in names:
            raise UserError(f"{own}: is about the recipe {recipe}, and no run is; the recipes are {', '.join(names)}")
        paths[recipe] = own
    return {f"expected_results/{name}.yaml": path.read_bytes() for name, path in paths.items() if path.exists()}


def _verdict(run: RunFolder, own: Path | None) -> str:
    """The status of a run by the expected results that go into the archive; that of its folder may be older than they are."""
    chosen = own if own is not None and load_expected(own).recipe == run.manifest.recipe else None
    try:
        return verification.verify_runs([run.path], chosen).status
    except IncomparableError:
        return "unverified"


def _locks() -> dict[str, Content]:
    folder = resources.files("spac_repro") / "requirements"
    return {f"requirements/{entry.name}": entry.read_bytes() for entry in folder.iterdir() if Path(entry.name).suffix == f".{LOCK}"}


def read_index(content: Any, where: str) -> list[str]:
    """The folders of the runs of an archive, from its index.

    Raises:
        UserError: the index is not one, or is of a newer version.
    """
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise UserError(f"{where}: {INDEX} is not the index of an archive")
    files.check_schema(Path(where), content, SCHEMA)
    places = [entry.get("folder") if isinstance(entry, dict) else None for entry in content["runs"]]
    if not places or not all(isinstance(place, str) for place in places):
        raise UserError(f"{where}: {INDEX} names no runs")
    archive_format.check_names([str(place) for place in places], where)
    return [str(place) for place in places]
