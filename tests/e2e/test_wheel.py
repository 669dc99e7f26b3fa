"""A wheel in an environment of its own, in an empty folder: everything that the package reads is in it."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import cut_down
import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end without this checkout on the path; its output."""
    environment = {name: value for name, value in cut_down.environment().items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def tracked(*folders: str) -> list[str]:
    """The checkout's files, without what was built there: an egg-info would tell setuptools of files that no pattern names."""
    return call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders, cwd=ROOT).split("\0")[:-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, without a network."""
    copy, dist = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.exists():
            target.write_bytes(source.read_bytes())
    call(sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", dist, copy, cwd=dist)
    (built,) = dist.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel; dependencies are those of this environment, without its own package."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    # Python adds a folder that a .pth file names, and runs none of the .pth files in there: no editable install comes along.
    places = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (places / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return folder / "bin"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


def names(*folder: str) -> set[str]:
    return {Path(name).stem for name in tracked("/".join(folder)) if name.endswith(".yaml")}


def test_the_wheel_holds_what_the_package_holds_and_nothing_else(wheel):
    """Recipes, launchers, expected results, locks, tasks, the report's page; the folders at the top are links in the package."""
    links = ("expected_results", "launchers", "requirements")
    files = {name for name in tracked("spac_repro") if not (ROOT / name).is_symlink()}
    files |= {f"spac_repro/{name}" for name in tracked(*links)}
    # What the locks are made from stays behind.
    files = {name for name in files if not (name.startswith("spac_repro/requirements/") and name.endswith((".in", ".override")))}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert (sorted(files - held), sorted(held - files)) == ([], [])


def test_the_package_is_the_wheels_own(installed, empty):
    place = call(installed / "python", "-c", "import spac_repro; print(spac_repro.__file__)", cwd=empty).strip()
    assert Path(place).is_relative_to(installed.parent)


def test_recipes_launchers_and_expected_results_are_found(installed, empty):
    recipes = json.loads(call(installed / "spac-repro", "recipes", "list", "--json", cwd=empty))
    assert set(recipes) == names("spac_repro", "recipes")
    for sweep in names("launchers", "sweeps"):
        call(installed / "spac-repro", "sweep", "submit", sweep, "--cluster", "local", "--dry-run", cwd=empty)
    for cluster in names("launchers", "clusters"):
        call(installed / "spac-repro", "sweep", "submit", "seeds", "--cluster", cluster, "--dry-run", cwd=empty)
    program = "from spac_repro.trust.expected import expected_path, load_expected\nimport sys\n"
    program += "for name in sys.argv[1:]: load_expected(expected_path(name))"
    call(installed / "python", "-c", program, *names("expected_results"), cwd=empty)


def test_tiny_is_trained_verified_and_reported(installed, empty):
    """A cut-down run, with the tasks of the leaderboard that come with the package."""
    settings = [part for setting in cut_down.SETTINGS for part in ("--set", setting)]
    call(installed / "spac-repro", "train", "--out", "run", *settings, cwd=empty)
    tasks = {score["task"] for score in cut_down.results(empty / "run")["iterations"][-1]["scores"]}
    assert {"mini_arc", "mini_mmlu", "gold"} <= tasks
    verdict = json.loads((empty / "run" / "verdict.json").read_text())
    assert verdict["status"] == "unverified"
    assert "no row for the setting" in verdict["reason"]
    assert verdict["inapplicable"], "the rows of expected_results/tiny.yaml were not found"
    call(installed / "spac-repro", "report", "run", "--out", "report.html", cwd=empty)
    assert (empty / "report.html").stat().st_size > 10_000
