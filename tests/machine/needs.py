"""What tests need of the machine beyond .venv, by marker: programs, the packages that bring them, and who may install those.

python tests/machine/needs.py       what `make check` will install on this machine, and what it will skip
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
allowed = True  # whether the test that is running may change the machine: tests/conftest.py says so


class NotHereError(Exception):
    """This machine lacks something and it may not be installed; the message says what and why."""


@dataclass(frozen=True)
class Needs:
    """What the tests of one marker need."""

    programs: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...]  # arguments of one `apt-get install` each
    root: bool  # whether the tests themselves need root, not only apt-get
    besides: str = ""  # what they fetch into a temporary folder

    @property
    def packages(self) -> tuple[str, ...]:
        return tuple(word for words in self.sets for word in words if not word.startswith("-"))

    @property
    def missing(self) -> list[str]:
        return [program for program in self.programs if shutil.which(program) is None]


NEEDS = {
    "slurm": Needs(
        programs=("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "unshare"),
        sets=(("slurm-wlm", "munge"), ("--no-install-recommends", "slurmdbd", "mariadb-server")),
        root=True,
    ),
    "slurm, in a container": Needs(programs=("podman", "runc"), sets=(("--no-install-recommends", "podman", "runc"),), root=True),
    "images": Needs(
        programs=("podman", "buildah", "runc", "newuidmap", "mmdebstrap", "dockerd", "docker"),
        sets=(("--no-install-recommends", "podman", "buildah", "runc", "uidmap", "mmdebstrap", "docker.io"),),
        root=True,
        besides="a Debian base, an Apptainer, and the image's Python packages (Debian 12 only)",
    ),
    "browser": Needs(programs=("chromium",), sets=(("--no-install-recommends", "chromium", "fonts-dejavu-core"),), root=False),
    "compare": Needs(programs=(), sets=(), root=False, besides="one older Python library"),
}


def install(name: str) -> None:
    """Install what the tests of a marker need, where it is missing. No service is started.

    Raises:
        NotHereError: not root, no apt-get, or apt-get fails.
        RuntimeError: the test that asks for it is one of `make test`.
    """
    _only_in_check(f"what apt-get installs ({name})")
    needs = NEEDS[name]
    if not needs.missing:
        return
    packages = " ".join(needs.packages)
    if not _may_install():
        raise NotHereError(f"not installed, and only root may install them, with apt-get: {packages}")
    with _no_services():
        for arguments in (["update", "-qq"], *(["install", "-y", "-qq", *words] for words in needs.sets)):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise NotHereError(f"apt-get failed ({packages}): {(done.stderr or done.stdout).strip().splitlines()[-1]}")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of a stated size (`64k`, `8m`), in a folder while this lasts.

    Raises:
        NotHereError: it may not be mounted here.
        RuntimeError: the test that asks for it is one of `make test`.
    """
    _only_in_check("a mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise NotHereError(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _only_in_check(what: str) -> None:
    if not allowed:
        raise RuntimeError(f"a test of `make test` needs {what}: mark it `check`")


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


@contextmanager
def _no_services() -> Iterator[None]:
    """Packages start no services of their own while this lasts."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()


def announcement() -> list[str]:
    """One line a marker: what is there, what will be installed, what will be skipped."""
    lines = []
    for name, needs in NEEDS.items():
        if needs.root and os.geteuid() != 0:
            does = "skipped: needs root"
        elif not needs.missing:
            does = "installs nothing with apt-get" if needs.programs else "needs nothing of apt-get"
        elif _may_install():
            does = f"installs with apt-get, to stay: {' '.join(needs.packages)}"
        else:
            does = f"skipped: {' '.join(needs.missing)} missing, and only root may install them, with apt-get"
        also = f"; fetches into a temporary folder: {needs.besides}" if needs.besides and not does.startswith("skipped") else ""
        lines.append(f"  {name:<22} {does}{also}")
    return lines


if __name__ == "__main__":
    print("make check, beyond .venv:", *announcement(), sep="\n")
