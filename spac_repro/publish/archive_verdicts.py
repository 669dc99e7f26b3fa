"""Verification of an archive: its files by hash, and its scores against the expected results."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.documents.errors import user_error
from spac_repro.errors import UserError
from spac_repro.progress import NoProgress, Progress
from spac_repro.publish import archive_format
from spac_repro.publish.archive import INDEX, read_index
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.verdict import Verdict
from spac_repro.trust import verification
from spac_repro.trust.expected import expected_path

OTHER_EXPECTED = "the archive holds other expected results for this recipe than those that the scores were compared with"


@dataclass(frozen=True)
class ArchiveVerdict:
    """What was found in an archive."""

    archive: str
    sha256: str  # of the file itself
    files: int  # whose hashes were checked
    verdicts: tuple[Verdict, ...]  # one for each recipe, method and settings

    @property
    def exit_code(self) -> int:
        """1 if any verdict disagrees, or else 2 if any is unverified, or else 0."""
        codes = {verdict.exit_code for verdict in self.verdicts}
        return 1 if 1 in codes else max(codes)

    def as_json(self) -> dict[str, Any]:
        """Return the content for `--json`."""
        verdicts = [verdict.as_json() for verdict in self.verdicts]
        return {"archive": self.archive, "sha256": self.sha256, "files": self.files, "verdicts": verdicts}


def verify(path: Path, expected: Path | None = None, progress: Progress | None = None) -> ArchiveVerdict:
    """Check every file of an archive, and compare its scores with expected results.

    Args:
        path: the archive.
        expected: a file of expected results; by default the package's, or the archive's where the package has none.
        progress: what the progress is reported to.

    Raises:
        UserError: a file was altered, or the archive is not one.
    """
    progress = progress or NoProgress()
    progress.start_stage("checking the hash of every file")
    with tempfile.TemporaryDirectory(prefix="spac-repro-") as temporary, files.explain_disk_errors(Path(temporary)):
        folder = Path(temporary)
        try:
            return _verify(path, folder, expected, progress)
        except UserError as error:
            raise type(error)(str(error).replace(f"{folder}/", f"{path}: ")) from None


def _verify(path: Path, folder: Path, expected: Path | None, progress: Progress) -> ArchiveVerdict:
    """Verify an archive that is unpacked to a folder."""
    hashes = archive_format.unpack(path, folder, lambda name: not _is_large(name), progress.update)
    if INDEX not in hashes:
        raise user_error(str(path), f"no {INDEX}", remedy="name a file that `spac-repro archive` wrote")
    index = strict_json.read(folder / INDEX)
    groups: dict[tuple[str, str, str | None], list[RunFolder]] = {}
    for place in read_index(index, str(path)):
        run = RunFolder.open(folder / place)
        _check_against_manifest(path, place, run, hashes)
        manifest = run.manifest
        groups.setdefault((manifest.recipe, manifest.method, manifest.settings_sha256), []).append(run)
    progress.start_stage("comparing scores")
    verdicts = []
    for (recipe, _, _), runs in groups.items():
        own = folder / "expected_results" / f"{recipe}.yaml"
        chosen = expected or (own if not expected_path(recipe).exists() and own.exists() else None)
        verdict = verification.verify_runs([run.path for run in runs], chosen)
        if own.exists() and verdict.expected_file and verdict.expected_file.sha256 != files.sha256_file(own):
            verdict = replace(verdict, notes=(*verdict.notes, OTHER_EXPECTED))
        verdicts.append(_without_place(verdict, str(folder)))
    return ArchiveVerdict(str(path), files.sha256_file(path), len(hashes), tuple(verdicts))


def _is_large(name: str) -> bool:
    """Whether a member is a weight or training data: only its hash is looked at."""
    parts = Path(name).parts
    if len(parts) < 2 or parts[0] != "runs":
        return False
    each = next(
        (RunFolder(Path()).iteration(int(part[10:])) for part in parts if part[:10] == "iteration-" and part[10:].isdigit()), None
    )
    if each is None:
        return False
    return each.policy.name in parts[:-1] or parts[-1] in (each.dataset_file.name, each.heldout_file.name)


def _check_against_manifest(path: Path, place: str, run: RunFolder, hashes: dict[str, str]) -> None:
    """Compare the hashes of members with those that the run's manifest states, weights too."""
    for name, sha256 in (run.manifest.written_files or {}).items():
        if hashes.get(f"{place}/{name}", sha256) != sha256:
            raise user_error(
                str(path), f"{place}/{name} is not what the run wrote", remedy="the run was altered before it was archived"
            )


def _without_place(verdict: Verdict, folder: str) -> Verdict:
    """The verdict without the temporary folder's name."""
    file = verdict.expected_file
    named = file._replace(name=file.name.replace(f"{folder}/", "")) if file else None
    return replace(verdict, expected_file=named, reason=verdict.reason.replace(f"{folder}/", ""))
