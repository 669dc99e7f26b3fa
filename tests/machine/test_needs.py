"""What `make check` says that it will install, and that nothing else installs anything."""

import os
import shutil
import subprocess
from pathlib import Path

import needs
import pytest


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root on a machine that has apt-get and none of the programs."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/apt-get" if program == "apt-get" else None)


def said() -> dict[str, str]:
    """The announcement, by marker."""
    return {line[:24].strip(): line[24:].strip() for line in needs.announcement()}


def test_a_test_of_make_test_may_install_and_mount_nothing(bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    for name in needs.NEEDS:
        with pytest.raises(RuntimeError, match="mark it `check`"):
            needs.install(name)
    with pytest.raises(RuntimeError, match="mark it `check`"), needs.small_disk(tmp_path, "64k"):
        pass


def test_all_that_will_be_installed_is_announced(bare: None) -> None:
    for name, its in needs.NEEDS.items():
        assert all(package in said()[name] for package in its.packages)
    assert said()["browser"] == "installs with apt-get, to stay: chromium fonts-dejavu-core"


def test_what_is_there_is_not_installed(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    assert not any("to stay" in line or "skipped" in line for line in needs.announcement())
    monkeypatch.setattr(needs, "allowed", True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    for name in needs.NEEDS:
        needs.install(name)


def test_who_is_not_root_is_told_what_is_skipped(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert said()["slurm"] == "skipped: needs root"
    assert said()["browser"] == "skipped: chromium missing, and only root may install them, with apt-get"
    monkeypatch.setattr(needs, "allowed", True)
    with pytest.raises(needs.NotHereError, match="only root may install them, with apt-get: chromium"):
        needs.install("browser")


def test_the_services_of_packages_do_not_start(bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "allowed", True)
    monkeypatch.setattr(needs, "POLICY", tmp_path / "policy-rc.d")
    seen = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(command[:2])
        assert os.access(needs.POLICY, os.X_OK)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    needs.install("slurm")
    assert seen == [["apt-get", "update"], ["apt-get", "install"], ["apt-get", "install"]]
    assert not needs.POLICY.exists()
