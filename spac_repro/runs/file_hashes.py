"""What a run has written, by hash: the chain from the manifest to every file that a later stage reads.

The hash of a file enters the manifest before the file takes its name. So a file that is there without its hash in the manifest, or
with another one, was not written by this run. Checkpoints and self-play batches live shortly: they hold their own hash instead.
docs/decisions/13-chain.md gives the reasons.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError
from spac_repro.runs import files, manifest
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD
from spac_repro.runs.manifest import Manifest, WrittenMetrics

SMALL_BYTES = 2**24  # files up to this size are always checked; larger ones where they are read, or on demand


@dataclass(frozen=True)
class FileCheck:
    """What `check` looked at, in numbers of files."""

    checked: int
    not_checked: int  # large ones
    removed: int  # iterates and their triples that are there no longer; no score is computed from them again

    def __str__(self) -> str:
        if not self.checked + self.not_checked:
            return "version 0.1 recorded no hashes of the run's files, so they are believed as they are"
        parts = [f"{self.checked} files are what the run wrote"]
        parts += [f"{self.not_checked} large files were not checked (--deep checks them)"] if self.not_checked else []
        parts += [f"{self.removed} files of iterates are not here"] if self.removed else []
        return ", ".join(parts)


def link(run: RunFolder, source: Path, target: Path) -> None:
    """Link a file of another run into this one; copy it where it lies on another file system."""
    before_rename(run, target)(source)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(run: RunFolder, path: Path, content: Any) -> None:
    """Write JSON that a later stage reads."""
    files.write_json(path, content, before_rename=before_rename(run, path))


def before_rename(run: RunFolder, path: Path) -> files.Hook:
    """The hook of `files.atomic_file` and `files.atomic_folder` that enters the hash of what is written to `path`."""

    def enter(temporary: Path) -> None:
        parts = [temporary] if temporary.is_file() else sorted(file for file in temporary.rglob("*") if file.is_file())
        hashes = {
            _key(run, path / file.relative_to(temporary)): files.sha256_file(file) for file in parts if file.name != CARD
        }  # the model card is written again when the scores are known
        _enter(run, hashes)

    return enter


def wrote(run: RunFolder, path: Path) -> bool:
    """Whether the run wrote a file; it may have been removed since."""
    return _key(run, path) in (manifest.read(run.manifest_file).written_files or {})


def finish_iteration(run: RunFolder, path: Path) -> files.Hook:
    """As `before_rename`, for the iterate at `path`; the metrics up to here then belong to it and to the iterates before it."""
    enter = before_rename(run, path)

    def enter_both(temporary: Path) -> None:
        enter(temporary)
        there = manifest.read(run.manifest_file)
        metrics = {**there.written_metrics, path.parent.name: written_metrics(run)}
        _rewrite(run, there.model_copy(update={"written_metrics": metrics}))

    return enter_both


def finished_metrics(run: RunFolder) -> WrittenMetrics:
    """Return how much of metrics.jsonl belongs to the iterates that are there.

    The entry of an iterate is written before the iterate is. A process that is killed in between takes some steps again.
    """
    if not run.has_manifest:
        return WrittenMetrics()
    entries = manifest.read(run.manifest_file).written_metrics
    finished = [entries[each.path.name] for each in run.iterations() if each.path.name in entries and each.has_policy]
    if run.complete:  # iterates may have been removed since
        finished = list(entries.values())
    return max(finished, key=lambda entry: entry.bytes, default=WrittenMetrics())


def written_metrics(run: RunFolder) -> WrittenMetrics:
    """Bring metrics.jsonl to the disk, and return its length and hash."""
    if not run.metrics_file.exists():
        return WrittenMetrics()
    files.sync_file(run.metrics_file)
    content = run.metrics_file.read_bytes()
    return WrittenMetrics(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def check_metrics(run: RunFolder, written: WrittenMetrics, *, remedy: str) -> None:
    """Check that metrics.jsonl begins with what was written.

    Raises:
        UserError: it was changed, or lost its end.
    """
    begin = b""
    if run.metrics_file.exists() and not run.metrics_file.is_file():
        raise UserError(f"{run.metrics_file}: not a file; {remedy}")
    if run.metrics_file.is_file():
        with run.metrics_file.open("rb") as file:
            begin = file.read(written.bytes)
    if hashlib.sha256(begin).hexdigest() != written.sha256:
        raise UserError(f"{run.metrics_file}: its first {written.bytes} bytes are not those that were written; {remedy}")


def open_checked(path: Path) -> RunFolder:
    """Open a run folder and check its files, as `check` does.

    Raises:
        UserError: it is no run folder, or a file of it was changed, is missing, or was not written by the run.
    """
    run = RunFolder.open(path)
    check(run)
    return run


def check(run: RunFolder, *, deep: bool = False, resuming: bool = False) -> FileCheck:
    """Check the files of a run against the hashes in its manifest. Runs of version 0.1 have none.

    Args:
        run: the run, complete or not.
        deep: check large files too.
        resuming: the run goes on now, so an iterate that is missing will be computed again.

    Raises:
        UserError: a file was changed, is missing, or was not written by the run.
    """
    recorded = run.manifest.written_files
    if recorded is None:
        return FileCheck(0, 0, 0)
    checked = not_checked = removed = 0
    for name, sha256 in recorded.items():
        path = run.path / name
        if not path.exists() and run.complete and _may_be_removed(run, path):
            removed += 1
        elif path.is_file() and path.stat().st_size > SMALL_BYTES and not deep:
            not_checked += 1
        else:
            _check_file(path, sha256, complete=run.complete)
            checked += path.exists()
    _check_nothing_else(run)
    if not (run.complete or resuming):
        _check_no_gap(run, recorded)
    check_metrics(run, finished_metrics(run), remedy="the run is damaged; train it again in another folder")
    run.timing()
    if run.complete:
        _check_results(run)
        if run.verdict_file.exists():
            run.verdict()
    return FileCheck(checked, not_checked, removed)


def check_iterate(run: RunFolder, t: int) -> None:
    """Check every file of an iterate, the weights too.

    Raises:
        UserError: a file was changed, is missing, or was not written by the run.
    """
    policy = run.iteration(t).policy
    recorded = manifest.read(run.manifest_file).written_files  # not the cached one: another process may have written since
    if recorded is None:
        return
    for name, sha256 in recorded.items():
        if (run.path / name).is_relative_to(policy):
            _check_file(run.path / name, sha256, complete=run.complete)
    for file in policy.rglob("*"):
        if file.is_file() and file.name != CARD and _key(run, file) not in recorded:
            raise UserError(f"{file}: the run did not write it; remove it")


def _check_file(path: Path, sha256: str, *, complete: bool) -> None:
    if not path.is_file():
        if complete or path.exists() or (path.parent.name == "policy" and path.parent.exists()):
            raise UserError(f"{path}: missing, and the run wrote it; {_remedy(path, complete)}")
        return  # its stage is carried out again
    if files.sha256_file(path) != sha256:
        raise UserError(f"{path}: it is not what the run wrote; {_remedy(path, complete)}")


def _remedy(path: Path, complete: bool) -> str:
    if complete:
        return "the run is damaged; train it again in another folder"
    folder = path.parent if path.parent.name == "policy" else path
    return f"remove {folder} and repeat the command"


def _check_no_gap(run: RunFolder, recorded: Mapping[str, str]) -> None:
    """Check that an unfinished run has all iterates before its last iteration."""
    last = max((each.number for each in run.iterations()), default=0)
    for each in map(run.iteration, range(last)):
        written = any((run.path / name).is_relative_to(each.policy) for name in recorded)
        if written and not each.has_policy:
            raise UserError(f"{each.policy}: missing, and the run wrote it; repeat the run's `train` command")


def _check_nothing_else(run: RunFolder) -> None:
    """Check that there is no product of a stage that the run did not write."""
    products = [run.contamination_file, run.results_file]
    for each in run.iterations():
        products += [each.answers_file, each.scores_file, each.samples_file, each.gold_file, each.heldout_file]
        products += [each.dataset_file, each.audit_file]
        products += [file for file in each.policy.rglob("*") if file.is_file() and file.name != CARD]
    there = [path for path in products if path.exists()]
    recorded = manifest.read(run.manifest_file).written_files or {}  # read after the files were looked for: the run may be at work
    for path in there:
        if _key(run, path) not in recorded:
            raise UserError(f"{path}: the run did not write it; remove it and repeat the command")


def _check_results(run: RunFolder) -> None:
    """Check that results and manifest are of one run."""
    for name in ("recipe", "method", "seed", "settings_sha256"):
        ours, theirs = getattr(run.manifest, name), getattr(run.results, name)
        if ours != theirs:
            raise UserError(f"{run.results_file}: {name} is {theirs!r} there and {ours!r} in the manifest; the run is damaged")


def _may_be_removed(run: RunFolder, path: Path) -> bool:
    """Whether a finished run's scores stand without the file: iterates are large, and people remove them."""
    folders = {each.number: each for each in run.iterations()}
    own = next((each for each in folders.values() if path.is_relative_to(each.path)), None)
    if own is None:
        return False
    return path in (own.dataset_file, own.heldout_file) or (path.is_relative_to(own.policy) and not own.policy.exists())


def _key(run: RunFolder, path: Path) -> str:
    return path.relative_to(run.path).as_posix()


def _enter(run: RunFolder, hashes: Mapping[str, str]) -> None:
    there = manifest.read(run.manifest_file)
    if there.written_files is None:
        return  # begun by version 0.1
    exact = there.equal_bits_claimed and not there.segments
    for name, sha256 in hashes.items():
        if exact and there.written_files.get(name, sha256) != sha256:
            raise UserError(
                f"{run.path / name} was computed again and is another than before: this machine does not repeat its own numbers; "
                "train again in another folder"
            )
    _rewrite(run, there.model_copy(update={"written_files": {**there.written_files, **hashes}}))


def _rewrite(run: RunFolder, content: Manifest) -> None:
    files.write_json(run.manifest_file, content.as_json())
    run.__dict__.pop("manifest", None)  # it is read again where it is asked for
