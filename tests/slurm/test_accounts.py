"""A cluster that keeps no accounts, and takes few jobs an array."""

import json

import lab
from cluster import Cluster, wait_for


def test_no_accounts_and_small_arrays(without_accounts: Cluster, sweep: lab.Sweep) -> None:
    """What is lost is said; a job that dies without a word is still seen to be dead; many runs become several arrays."""
    sweep.write(seeds=[1, 2, 3, 4, 5], profile={"minutes": 5})
    done = sweep.submit()
    assert done.returncode == 0, done.stderr
    assert "Slurm's accounting is off here" in done.stdout
    jobs = json.loads((sweep.folder / "sweep.json").read_text())["jobs"]["run"].values()
    assert len({job.partition("_")[0] for job in jobs}) == 2
    assert without_accounts.ask("squeue", "-h", "-r", "-t", "RUNNING,PENDING", "-o", "%i").count("\n") == 4
    sweep.do("cancel")
    wait_for(lambda: sweep.states() == {"cancelled"}, "the end of all", 60)
