"""A sweep's folder: private, of one version, and what stands in it comes back."""

import json
import os

import pytest

from spac_repro.errors import UserError
from spac_repro.launchers import ledger, matrix, sweep
from spac_repro.launchers.ledger import Ledger
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster


def book(folder, seeds=(1, 2), **more):
    what = Sweep(name="mine", summary="s", recipe="tiny", seeds=list(seeds), methods=["spac", "dpo"], **more)
    made = Ledger(folder, what.name, Cluster.load("local"))
    made.add(matrix.cells(what))
    return made


def test_it_comes_back_as_it_was_saved(tmp_path):
    before = book(tmp_path)
    before.jobs = {"run": {"spac/seed-1": "17_0"}}
    ledger.make_private(before.job_folder)
    before.save()
    assert ledger.read(tmp_path) == before
    assert ledger.find(str(tmp_path)) == tmp_path


def test_more_cells_may_come_and_other_settings_may_not(tmp_path):
    there = book(tmp_path)
    there.add(book(tmp_path, seeds=[1, 2, 3]).cells.values())
    assert len(there.cells) == 6
    with pytest.raises(UserError, match="has a cell spac/seed-1 with other settings"):
        there.add(book(tmp_path, settings={"training.epochs_per_iteration": 1}).cells.values())


def test_what_another_command_submitted_meanwhile_is_not_submitted_again(tmp_path):
    ledger.make_private(tmp_path / "jobs")
    ours, theirs = book(tmp_path), book(tmp_path, seeds=[1, 2, 3])
    theirs.jobs = {"run": {cell: f"17_{i}" for i, cell in enumerate(theirs.cells)}}
    theirs.save()
    ours.refresh()
    assert ours.jobs == theirs.jobs
    assert set(ours.cells) == set(theirs.cells)


def test_the_first_cell_with_a_start_makes_it(tmp_path):
    there = book(tmp_path)
    assert {there.leader(cell).name for cell in there.cells.values()} == {"spac/seed-1", "spac/seed-2"}
    assert all(there.shares(cell) for cell in there.cells.values())
    alone = book(tmp_path, seeds=[1], vary={"supervised_start.epochs": [1, 2]})
    assert len({alone.leader(cell).name for cell in alone.cells.values()}) == 2


def test_planning_writes_nothing(tmp_path):
    there = book(tmp_path / "sweep")
    tasks = [str(task) for task in sweep.plan(there).tasks]
    starts, rest = ["start of spac/seed-1", "start of spac/seed-2"], ["spac/seed-1", "spac/seed-2", "dpo/seed-1", "dpo/seed-2"]
    assert tasks == starts + rest
    there.cluster = Cluster.load("cpu")
    assert "--array=0-3%4" in sweep.plan(there).script
    assert not list(tmp_path.iterdir())


def test_jobs_are_for_their_user_alone(tmp_path):
    folder = tmp_path / "jobs"
    ledger.make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(UserError, match="is open to other users"):
        ledger.make_private(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not yours"):
        ledger.check_private(tmp_path / "link")
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 65534, 65534)
        with pytest.raises(UserError, match="is not yours"):
            ledger.check_private(folder)


def test_another_version_and_no_sweep_are_refused(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="another version of spac-repro made it"):
        ledger.read(tmp_path)
    with pytest.raises(UserError, match="no submitted sweep"):
        ledger.find(str(tmp_path / "none"))


def test_a_line_half_written_is_not_read(tmp_path):
    file = tmp_path / "attempts.jsonl"
    file.write_text('{"job": "1", "position": "a"}\n{"job": "1", "en')
    assert ledger.attempts(file) == [{"job": "1", "position": "a"}]
    assert ledger.attempts(tmp_path / "none") == []
