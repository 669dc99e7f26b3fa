"""A run whose Python runs in a container of a real engine: Slurm's signals reach it, and it has the bits of a run outside.

The image holds nothing but links into /usr. This machine's Python, its libraries and this checkout come into it by the profile's
binds, so that no image has to be built.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import container_store
import lab
import needs
import pytest
from cluster import Cluster, wait_for

RUN = "spac/seed-1"
OUTSIDE = ("HF_TOKEN", "HF_HOME", "PYTHONSTARTUP", "PYTHONUSERBASE")  # variables of the user who submits
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """The image, as a folder."""
    folder = tmp_path / "links"
    for name in ("tmp", "dev", "proc", "sys", "etc", "var/tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    return folder


@pytest.fixture
def podman(links: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What a profile says to have Podman run the image, in a store of its own."""
    try:
        needs.install("slurm, in a container")
    except needs.NotHereError as reason:
        pytest.skip(str(reason))
    variables = container_store.store(tmp_path / "store")
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        tar.add(links, ".")

    def run(*words: str) -> str:
        done = subprocess.run(["podman", *words], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("import", "--quiet", str(tmp_path / "links.tar"), "localhost/links")
    yield {"image": {"runtime": "podman", "path": "localhost/links"}, "environment": variables}
    left = run("ps", "--all", "--quiet")
    run("rm", "--all", "--force", "--time", "0")
    run("rmi", "--all", "--force")
    assert left == "", "a container outlived its job"


@pytest.fixture
def apptainer(links: Path) -> dict[str, Any]:
    """What a profile says to have Apptainer run the image. Debian 12 has no such package: bring one on the PATH."""
    if shutil.which("apptainer") is None:
        pytest.skip("no apptainer on the PATH")
    return {"image": {"runtime": "apptainer", "path": str(links)}}


def binds(folder: Path) -> list[str]:
    """What a run needs of this machine: all to be read, and one folder to be written."""
    python = [sys.base_prefix, sys.prefix, str(Path(sys.prefix).resolve())]  # .venv may be a link
    wanted = ["/usr", "/etc", *python, str(CHECKOUT), *(path for path in sys.path if Path(path).is_dir())]
    outermost = [path for path in dict.fromkeys(wanted) if not any(Path(other) in Path(path).parents for other in wanted)]
    return [*(f"{path}:{path}:ro" for path in outermost), f"{folder}:{folder}"]


def python(folder: Path) -> Path:
    """An interpreter that writes down the variables that it was started with, and what the container has of a home."""
    file = folder / "python"
    home = f'ls -A "$HOME" /root /home >{folder}/home 2>&1'
    file.write_text(f'#!/bin/sh\nenv >{folder}/variables\n{home}\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(("engine", "name"), [("podman", "podman:localhost/links"), ("apptainer", "apptainer:links")])
def test_preempted_in_a_container(
    engine: str,
    name: str,
    cluster: Cluster,
    sweep: lab.Sweep,
    direct: lab.Direct,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile, folder = request.getfixturevalue(engine), sweep.folder.parent
    options = ["--env", f"PYTHONPATH={CHECKOUT}"]
    profile["image"] |= {"binds": binds(folder), "python": str(python(folder)), "options": options}
    profile["environment"] = {**profile.get("environment", {}), "DISK": str(folder / "local")}
    for variable in OUTSIDE:
        monkeypatch.setenv(variable, "/outside")
    sweep.submitted(profile={**profile, "scratch": "$DISK"})
    wait_for(lambda: sweep.steps(RUN) >= 3, "step 3", 120)
    subprocess.run(["scancel", "--signal=USR2", sweep.job(RUN)], check=True)
    runs = sweep.ended()
    assert runs[RUN]["state"] == "done", (runs, sweep.log(RUN))
    assert lab.weights(sweep.folder / RUN) == lab.weights(direct(1)["spac"])
    assert json.loads((sweep.folder / RUN / "manifest.json").read_text())["environment"]["image"] == name
    positions = [attempt["position"] for attempt in sweep.attempts(RUN)]
    assert len(positions) == len({*positions}) == 2
    inside = dict(line.split("=", 1) for line in (folder / "variables").read_text().splitlines() if "=" in line)
    assert not {*OUTSIDE} & {*inside}
    assert inside["PYTHONPATH"] == str(CHECKOUT), "the option's, not the user's"
    assert inside["SPAC_REPRO_SCRATCH"] == "/tmp"
    assert ".cache" not in (folder / "home").read_text(), "a home of the node"
    assert [*(folder / "local").iterdir()] == [], "the folders on the node's disk go with the attempts"
