"""The folder of a sweep: its runs, and which job each of them was given.

sweep.json         the sweep, the cluster profile, the runs and their jobs
<run>/             run folders
jobs/              only for its user: submitit's pickles and logs, and a log of each run's attempts (attempts/)
collected/         the tables that `sweep collect` writes

A run is executed in one or two tasks: "start" (iteration 0, if other runs share it) and "run" (everything else).
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.launchers import profile
from spac_repro.launchers.matrix import SweepRun
from spac_repro.launchers.profile import Cluster
from spac_repro.renamed_settings import present_key
from spac_repro.runs import access, files
from spac_repro.runs.folder import RunFolder

SCHEMA = 2
SCHEMA_OF_0_1 = 1
JOBS = "jobs"
_RUN_NAME = re.compile(r"(?!\.)[\w.=+-]+(/(?!\.)[\w.=+-]+)*", re.ASCII)  # a path below the sweep's folder


@dataclass
class SweepFolder:
    """What sweep.json holds.

    Attributes:
        path: the folder.
        name: the sweep's name.
        cluster: the profile of the last submission.
        runs: the runs, by name.
        jobs: the ID of each run's job: task ("start" or "run") → name of the run → job.
        made_here: whether `save` wrote sweep.json into this very folder; otherwise it was copied or unpacked.
    """

    path: Path
    name: str
    cluster: Cluster
    runs: dict[str, SweepRun] = field(default_factory=dict)
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    made_here: bool = field(default=True, compare=False)
    _by_start: dict[str, list[SweepRun]] = field(default_factory=dict)

    def add(self, runs: Sequence[SweepRun]) -> None:
        """Add runs; those that are there already stay.

        Raises:
            UserError: there is a run of that name with other settings.
        """
        for run in runs:
            existing = self.runs.get(run.name)
            if existing is None:
                self.runs[run.name] = run
                self._by_start.setdefault(run.start_sha256, []).append(run)
            elif existing.settings_sha256 != run.settings_sha256:
                raise UserError(
                    f"{self.path} has a run {run.name} with other settings; "
                    "give the changed sweep another name, or another folder with --out"
                )

    def refresh(self) -> None:
        """Read again what other commands have written since, so that their runs are not submitted twice."""
        if (self.path / "sweep.json").exists():
            current = read(self.path)
            self.jobs = current.jobs
            self.add([*current.runs.values()])

    def save(self) -> None:
        """Write sweep.json."""
        files.write_json(
            self.path / "sweep.json",
            {
                "schema": SCHEMA,
                "name": self.name,
                "cluster": self.cluster.model_dump(mode="json"),
                "runs": [run.as_json() for run in self.runs.values()],
                "jobs": self.jobs,
                "made_in": _identity(self.path),
            },
            mode=0o600,  # the profile's environment may hold tokens
        )

    def run_folder(self, run: SweepRun) -> RunFolder:
        """The run's folder, whether or not it exists."""
        return RunFolder(self.path / run.name)

    def start_owner(self, run: SweepRun) -> SweepRun:
        """The run in whose folder the start policy of this run is made: the first one with that start, so it never changes."""
        return self._by_start[run.start_sha256][0]

    def shares_start(self, run: SweepRun) -> bool:
        """Whether another run has the same start policy."""
        return len(self._by_start[run.start_sha256]) > 1

    def job(self, task: str, run: SweepRun) -> str | None:
        """The job that was submitted for a task ("start" or "run") of a run."""
        return self.jobs.get(task, {}).get(run.name)

    @property
    def job_folder(self) -> Path:
        """The folder of pickles and logs, for this user only."""
        return self.path / JOBS

    def attempts_file(self, task: str, run: SweepRun) -> Path:
        """The log of the attempts at a task ("start" or "run") of a run."""
        return self.job_folder / "attempts" / f"{task}-{run.name.replace('/', ',')}.jsonl"


class _Content(BaseModel):
    """The content of sweep.json."""

    name: str
    cluster: Cluster
    runs: list[SweepRun]
    jobs: dict[str, dict[str, str]]


def find(sweep: str) -> Path:
    """Find the folder of a submitted sweep, by its path or by its name in runs/.

    Raises:
        UserError: there is none.
    """
    for folder in (Path(sweep), Path("runs") / sweep):
        if (folder / "sweep.json").exists():
            return folder.resolve()
    raise UserError(
        f"{sweep}: no submitted sweep: neither this folder nor runs/{sweep} has a sweep.json; submit one with "
        "`spac-repro sweep submit`"
    )


def read(path: Path) -> SweepFolder:
    """Read the folder of a submitted sweep, also one of version 0.1.

    Raises:
        UserError: another version wrote it, others can change it, or its job folder is not only this user's.
    """
    file = path / "sweep.json"
    access.check_own_folder(path)
    if file.is_symlink() or file.stat().st_uid not in (os.geteuid(), path.stat().st_uid):
        raise UserError(f"{file} is not yours, and jobs would execute what it says; choose another folder with --out")
    tree = strict_json.read(file, dict)
    if tree.get("schema") == SCHEMA_OF_0_1:
        try:
            tree = _upgrade(tree)
        except (KeyError, TypeError, AttributeError):
            raise user_error(str(file), "not a sweep as version 0.1 wrote them", remedy="it was changed by hand") from None
    if tree.get("schema") != SCHEMA:
        raise UserError(f"{file}: schema {tree.get('schema')!r} is not {SCHEMA}; another version of spac-repro wrote it")
    check_private(path / JOBS)
    content = validate(_Content, tree, NamedSource(str(file)), remedy="the file was changed by hand; submit the sweep again")
    folder = SweepFolder(path, content.name, content.cluster, jobs=content.jobs)
    folder.add(content.runs)
    folder.made_here = tree.get("made_in") == _identity(path)
    for name in (folder.name, *folder.runs):
        if not _RUN_NAME.fullmatch(name):
            raise UserError(f"{file}: {one_line(name, 60)!r} is no name of a run or sweep; the file was changed by hand")
    return folder


def check_made_here(folder: SweepFolder, *, remedy: str) -> None:
    """Check that this user's own command wrote sweep.json here, before its profile is executed or its jobs are cancelled.

    A sweep folder out of an archive belongs to whoever unpacks it, but its sweep.json is the work of somebody else.

    Raises:
        UserError: it was written elsewhere.
    """
    if not folder.made_here:
        raise UserError(f"{folder.path}: sweep.json was written elsewhere, and says what jobs execute; {remedy}")


def _identity(path: Path) -> list[int]:
    """The inodes of the sweep's folder and of its job folder. Nobody can know them before the folders exist."""
    return [folder.stat().st_ino for folder in (path, path / JOBS) if folder.exists()]


def _upgrade(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a sweep.json of version 0.1."""
    runs = []
    for cell in tree["cells"]:
        run = {{"digest": "settings_sha256", "start": "start_sha256"}.get(key, key): value for key, value in cell.items()}
        method = run["method"]
        run["varied"] = {present_key(key, method): value for key, value in run["varied"].items()}
        pairs = [setting.partition("=") for setting in run["settings"]]
        run["settings"] = [f"{present_key(key, method)}={value}" for key, _, value in pairs]
        runs.append(run)
    return {**tree, "schema": SCHEMA, "cluster": profile.upgrade(tree["cluster"]), "runs": runs}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a sweep's folder, so that only one `submit`, `retry` or `cancel` works on it at a time.

    Raises:
        UserError: another command has the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / JOBS / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path}: another sweep command is working on this sweep; wait until it has finished") from None
    try:
        yield
    finally:
        lock.release()


def make_private(folder: Path) -> None:
    """Create the job folder so that only this user can access it, because jobs execute the pickles in it.

    Raises:
        UserError: it cannot be created, belongs to another user, or is accessible to others.
    """
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror}; choose a folder that you can write to with --out") from None
    check_private(folder)


def check_private(folder: Path) -> None:
    """Check that only this user can access the job folder, if it exists.

    Raises:
        UserError: it belongs to another user, or is accessible to others.
    """
    if not folder.exists():
        return
    status = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.geteuid():
        raise UserError(f"{folder} is not yours: jobs would execute files of its owner; choose another folder with --out")
    if status.st_mode & 0o077:
        raise UserError(
            f"{folder} is open to other users, who could change what its jobs execute; check its files, then `chmod 700 {folder}`"
        )


def attempts(path: Path) -> list[dict[str, Any]]:
    """Read the log of the attempts at a task: one line where an attempt begins, one where it ends. A partial line is ignored."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [strict_json.parse(line, str(path), dict, line=n) for n, line in enumerate(lines, start=1) if line.endswith("}")]
