"""What gets into an image and into a container: packages from the folder of the build, and few of the host's variables."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.images import building, command


def wheel(folder: Path, version: str) -> str:
    """Write a wheel of a package that no index has, into a folder; its hash."""
    folder.mkdir(exist_ok=True)
    name = f"spac_repro_stand_in-{version}"
    file = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: spac-repro-stand-in\nVersion: {version}\n")
        archive.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a build that has the wheel of its lock; pip is configured to look where there is another build of it, too."""
    sha256 = wheel(tmp_path / "wheels", "1.0")
    wheel(tmp_path / "configured", "1.0+cpu")
    (tmp_path / "requirements").mkdir()
    for name in ("image", "cuda"):
        (tmp_path / "requirements" / f"{name}.lock").write_text(f"spac-repro-stand-in==1.0 --hash=sha256:{sha256}\n")
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {tmp_path}/configured\n")
    monkeypatch.setattr(building, "CHECKOUT", tmp_path)
    monkeypatch.setattr(building, "SHIPPED_LOCKS", {"cuda": ("cuda",)})
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path}/configured")
    monkeypatch.setenv("PIP_CONFIG_FILE", f"{tmp_path}/pip.conf")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing is asked of the network
    return tmp_path / "wheels"


def test_packages_that_are_there_are_not_downloaded_again(packages: Path) -> None:
    said: list[str] = []
    building._download_packages(packages, "cuda", said.append)
    assert said == []


def test_a_package_that_cannot_be_had_is_named(packages: Path) -> None:
    for file in packages.iterdir():
        file.unlink()
    with pytest.raises(UnfitEnvironmentError, match="pip cannot download the image's packages: "):
        building._download_packages(packages, "cuda", lambda line: None)


def test_variables_of_nccl_and_limits_reach_a_container_and_those_of_networks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between GPUs without peer-to-peer access, a run hangs without the first two; Accelerate demands them for some."""
    passed = {
        "NCCL_P2P_DISABLE": "1",
        "NCCL_IB_DISABLE": "1",
        "NCCL_DEBUG": "WARN",
        "SPAC_REPRO_NCCL_MINUTES": "5",
        "SPAC_REPRO_GLOO_MINUTES": "9",
    }
    of_networks = {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0", "NCCL_IB_HCA": "mlx5_0", "NCCL_COMM_ID": "node:1"}
    for name, value in {**passed, **of_networks}.items():
        monkeypatch.setenv(name, value)
    variables = command.environment_variables("digest", command.ContainerOptions(), caches="/cache")
    assert {**variables, **passed} == variables
    assert not of_networks.keys() & variables.keys()
