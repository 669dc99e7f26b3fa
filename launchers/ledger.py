"""A sweep's folder: which cells there are, and which job each was given.

sweep.json         the sweep, the cluster, the cells, and their jobs
<cell>/            run folders
jobs/              private to the user: what submitit writes (pickles and logs), and what each job says of itself (attempts/)
collected/         what `sweep collect` writes

A cell's work is up to two tasks: "start" (iteration 0, where other cells share it) and "run" (the rest of it).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.documents.source import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UserError
from spac_repro.launchers.matrix import Cell
from spac_repro.launchers.profile import Cluster
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder

SCHEMA = 1
JOBS = "jobs"


@dataclass
class Ledger:
    """What sweep.json holds."""

    folder: Path
    name: str
    cluster: Cluster
    cells: dict[str, Cell] = field(default_factory=dict)
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)  # task ("start" or "run") → cell → job
    _by_start: dict[str, list[Cell]] = field(default_factory=dict)

    def add(self, cells: Sequence[Cell]) -> None:
        """Take cells in.

        Raises:
            UserError: a cell of that name is there with other settings.
        """
        for cell in cells:
            there = self.cells.get(cell.name)
            if there is None:
                self.cells[cell.name] = cell
                self._by_start.setdefault(cell.start, []).append(cell)
            elif there.digest != cell.digest:
                raise UserError(
                    f"{self.folder} has a cell {cell.name} with other settings; "
                    "give the changed sweep another name, or a folder of its own with --out"
                )

    def refresh(self) -> None:
        """Take in what another command has written since this was read: its cells must not be submitted twice."""
        if (self.folder / "sweep.json").exists():
            there = read(self.folder)
            self.jobs = there.jobs
            self.add([*there.cells.values()])

    def save(self) -> None:
        files.write_json(
            self.folder / "sweep.json",
            {
                "schema": SCHEMA,
                "name": self.name,
                "cluster": self.cluster.model_dump(mode="json"),
                "cells": [cell.as_json() for cell in self.cells.values()],
                "jobs": self.jobs,
            },
        )

    def run_folder(self, cell: Cell) -> Path:
        return self.folder / cell.name

    def run(self, cell: Cell) -> RunFolder:
        """The cell's run, begun or not."""
        return RunFolder(self.run_folder(cell))

    def leader(self, cell: Cell) -> Cell:
        """The cell in whose folder the start that this one uses is made: the first with that start, so it never changes."""
        return self._by_start[cell.start][0]

    def shares(self, cell: Cell) -> bool:
        """Whether another cell has the same start."""
        return len(self._by_start[cell.start]) > 1

    def job(self, task: str, cell: Cell) -> str | None:
        return self.jobs.get(task, {}).get(cell.name)

    @property
    def job_folder(self) -> Path:
        return self.folder / JOBS

    def attempts_file(self, task: str, cell: Cell) -> Path:
        return self.job_folder / "attempts" / f"{task}-{cell.name.replace('/', ',')}.jsonl"


def find(sweep: str) -> Path:
    """The folder of a sweep that was submitted: given as such, or by its name in runs/.

    Raises:
        UserError: there is none.
    """
    for folder in (Path(sweep), Path("runs") / sweep):
        if (folder / "sweep.json").exists():
            return folder.resolve()
    raise UserError(
        f"{sweep}: no submitted sweep, neither that folder nor runs/{sweep} has a sweep.json; `spac-repro sweep submit` makes it"
    )


def read(folder: Path) -> Ledger:
    """The ledger of a folder.

    Raises:
        UserError: it is of another version, or its jobs are another user's.
    """
    tree = strict_json.read(folder / "sweep.json", dict)
    if tree.get("schema") != SCHEMA:
        raise UserError(
            f"{folder / 'sweep.json'}: schema {tree.get('schema')!r} is not {SCHEMA}; another version of spac-repro made it"
        )
    check_private(folder / JOBS)
    cluster = validate(Cluster, tree["cluster"], NamedSource(str(folder / "sweep.json"), ("cluster",)))
    book = Ledger(folder, tree["name"], cluster, jobs=tree["jobs"])
    book.add([Cell.from_json(cell) for cell in tree["cells"]])
    return book


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One `submit`, `retry` or `cancel` at a time."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / JOBS / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another sweep command is at work there; wait for it") from None
    try:
        yield
    finally:
        lock.release()


def make_private(folder: Path) -> None:
    """Make the job folder, for this user alone: a job runs the pickles in it.

    Raises:
        UserError: it is another user's, or open to others.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; choose a folder that you can write with --out") from None
    check_private(folder)


def check_private(folder: Path) -> None:
    """Raise UserError unless the job folder is this user's, and only theirs."""
    if not folder.exists():
        return
    status = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.geteuid():
        raise UserError(f"{folder} is not yours: its jobs would run what its owner wrote; choose another folder with --out")
    if status.st_mode & 0o077:
        raise UserError(
            f"{folder} is open to other users, who could change what its jobs run; look at it, then `chmod 700 {folder}`"
        )


def attempts(path: Path) -> list[dict[str, Any]]:
    """What the jobs of a task said of themselves, in order: one line where an attempt begins, one where it ends."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [strict_json.parse(line, str(path), dict, line=n) for n, line in enumerate(lines, start=1) if line.endswith("}")]
