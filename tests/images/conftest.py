"""What the image tests share: one base, one image built twice, one SIF, the container runtimes."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parent))

import container_store
import cut_down
import laboratory
from laboratory import IMAGE, Built, owned

from spac_repro import __version__
from spac_repro.images import building


@pytest.fixture(scope="session")
def lab() -> Iterator[Path]:
    """A folder for everything that the image tests make."""
    laboratory.install()
    folder = Path(tempfile.mkdtemp(prefix="spac-repro-images-"))
    folder.chmod(0o755)
    (folder / "tmp").mkdir(mode=0o1777)
    (folder / "tmp").chmod(0o1777)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))  # Apptainer's own root has this folder, and no other /tmp
        yield folder
    laboratory.remove(folder)


@pytest.fixture(scope="session")
def pool(lab: Path) -> Iterator[ThreadPoolExecutor]:
    """For what can be done meanwhile."""
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture(scope="session")
def fetched(pool: ThreadPoolExecutor, lab: Path) -> dict[str, Future[Path]]:
    """What comes over the network, all begun at once: the base, the packages of the image, and Apptainer."""
    return {
        "base": pool.submit(laboratory.base, lab / "base"),
        "packages": pool.submit(building.build_context, "cpu", None, print),
        "apptainer": pool.submit(laboratory.apptainer, lab / "apptainer"),
    }


@pytest.fixture(scope="session")
def built(pool: ThreadPoolExecutor, lab: Path, fetched: dict[str, Future[Path]]) -> Built:
    """The image, built twice at once in two empty stores: by `spac-repro image build` where there is no network, and by Buildah."""
    base = fetched["base"].result()
    stores = [container_store.store(lab / name) for name in ("store", "second")]
    for store in stores:
        laboratory.run("buildah", "bud", "--timestamp", "1700000000", "--tag", laboratory.BASE, base, **store)
    context = fetched["packages"].result()
    build = ["image", "build", "--runtime", "podman", "--base", laboratory.BASE, "--source", laboratory.SOURCE]
    words = [*laboratory.OFFLINE, sys.executable, "-m", "spac_repro", *build]
    with laboratory.podman(lab / "store", stores[0]):
        # Not CONTAINER_HOST: with it, Podman sends half a gigabyte to its service instead of building by itself.
        environment = {**os.environ, **stores[0], "PYTHONPATH": str(laboratory.CHECKOUT), "XDG_RUNTIME_DIR": str(lab / "store")}
        environment.pop("CONTAINER_HOST", None)
        ours = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert ours.stderr is not None
        said: list[str] = []
        for line in ours.stderr:  # the folder is filled once the build begins
            said.append(line)
            if "STEP 1" in line:
                break
        assert ours.poll() is None, "".join(said)[-2000:]
        given = {"BASE": laboratory.BASE, "VERSION": __version__, "REVISION": building.revision(), "SOURCE": laboratory.SOURCE}
        arguments = [f"--build-arg={name}={value}" for name, value in given.items()]
        second = lab / "second.id"
        options = [f"--timestamp={building.source_date_epoch()}", "--network=none", f"--iidfile={second}"]
        theirs = subprocess.Popen(
            ["buildah", "bud", *options, *arguments, str(context)], env={**os.environ, **stores[1]}, stdout=subprocess.DEVNULL
        )
        out, err = ours.communicate()
        assert theirs.wait(900) == 0
        assert ours.returncode == 0, "".join(said)[-2000:] + err[-2000:]
    pool.submit(laboratory.remove, lab / "second")
    first = next(line.split()[1] for line in out.splitlines() if line.startswith("identity"))
    return Built(first, f"oci:{second.read_text().strip()}", stores[0])


@pytest.fixture(scope="session")
def podman(lab: Path, built: Built) -> Iterator[str]:
    """Podman's service; where it listens."""
    with laboratory.podman(lab / "store", built.store) as where:
        yield where


@pytest.fixture(scope="session")
def archive(lab: Path, built: Built) -> Path:
    """The image as one file: how it travels without a registry."""
    file = lab / "image.tar"
    laboratory.run("podman", "save", "--format", "docker-archive", "--output", file, IMAGE, **built.store)
    file.chmod(0o644)
    return file


@pytest.fixture(scope="session")
def docker(lab: Path, archive: Path, sif_begun: Future[Path]) -> Iterator[str]:
    """A Docker daemon that has the image; its address. Its tests are a while in which a SIF can be made."""
    with laboratory.docker(lab / "docker") as where:
        laboratory.run("docker", "--host", where, "load", "--input", archive)
        yield where


@pytest.fixture(scope="session")
def apptainer(fetched: dict[str, Future[Path]]) -> str:
    """A PATH with a real Apptainer on it."""
    return on_the_path(fetched["apptainer"])


def on_the_path(programs: Future[Path]) -> str:
    return f"{programs.result()}:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def sif_begun(pool: ThreadPoolExecutor, lab: Path, archive: Path, fetched: dict[str, Future[Path]]) -> Future[Path]:
    """The image as a SIF, made by an ordinary user from the Docker image; its own %test has trained a few steps."""
    file = owned(lab / "sif") / "spac-repro.sif"

    def make() -> Path:
        done = laboratory.spac_repro(
            *("image", "build", "--runtime", "apptainer", "--base", f"docker-archive:{archive}", "--out", file),
            user=laboratory.CALLER,
            PATH=on_the_path(fetched["apptainer"]),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "iteration 1: training" in done.stderr, "%test trains"
        return file

    return pool.submit(make)


@pytest.fixture(scope="session")
def sif(sif_begun: Future[Path]) -> Path:
    """The SIF."""
    return sif_begun.result()


@pytest.fixture(scope="session")
def on_the_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cut-down run on the host."""
    out = tmp_path_factory.mktemp("host") / "run"
    return cut_down.trained(out)
