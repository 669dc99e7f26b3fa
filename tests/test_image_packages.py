"""The packages of an image: taken from the folder of the build where they are there, whatever pip is configured to do."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.images import building


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
