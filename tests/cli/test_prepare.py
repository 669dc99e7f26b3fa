"""`prefetch` and `doctor`: what is refused before anything is fetched or looked at."""

import json
import shutil
from types import SimpleNamespace

from spac_repro import cost, recipes


def test_unknown_names_are_refused(refused):
    assert "unknown recipe 'zephyr-8b' (did you mean zephyr-7b?)" in refused("prefetch", "--cache", "x", "--recipe", "zephyr-8b")
    assert "unknown cluster 'cpus' (did you mean cpu?)" in refused("doctor", "--cluster", "cpus")
    assert "unknown sweep 'sedes' (did you mean seeds?)" in refused("doctor", "--sweep", "sedes")


def test_doctor_checks_one_recipe_or_one_sweep(refused):
    assert "--sweep and --recipe both say what will be trained" in refused("doctor", "--sweep", "seeds", "--recipe", "tiny")
    assert "--set changes a recipe; name one with --recipe" in refused("doctor", "--set", "training.iterations=1")


def test_too_little_disk_is_said_by_train_and_by_doctor(invoke, refused, monkeypatch):
    needed = cost.estimate(recipes.load("tiny"), None).disk
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    line = refused("train", "--out", "a/run", code=3)
    assert "a/run: checkpoints and iterates take up to 18.1 MB" in line
    assert "make room, or choose another disk with --out" in line
    done = invoke("doctor", "--recipe", "tiny", "--out", "a/run", "--json")
    checks = {check["what"]: check for check in json.loads(done.out)["checks"]}
    assert (done.code, checks["disk"]["verdict"]) == (3, "unfit")
    assert "one run needs 0.0 GB at most" in checks["disk"]["found"]
