"""Real container runtimes on a plain Debian machine, without a registry: Podman, Docker, and an Apptainer in a root of its own.

Everything lies in one folder, and what was started is stopped by its own process.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import needs
import pytest

from spac_repro import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
BASE = "localhost/base:ci"
IMAGE = f"localhost/spac-repro:{__version__}-cpu"
SOURCE = "https://example.org/spac-repro"
CALLER = 20001  # an ordinary user, by number
OFFLINE = ("unshare", "--net")  # what makes the command after it one without a network
# Apptainer needs a newer libc than bookworm's: it runs in a root of its own, with the folders of the tests at their own places.
# Whoever calls, it runs as an ordinary user, since that is who runs it on a cluster. Its SIF is packed quickly rather than well.
APPTAINER = """\
#!/bin/sh
export R={root} LAB={lab} CHECKOUT={checkout} W="$PWD"
exec setpriv --reuid 0 --regid 0 --clear-groups unshare -m --propagation private sh -euc '
mkdir -p "$R/old" "$R$LAB" "$R$CHECKOUT"
mount --bind "$R" "$R"; mount --rbind /dev "$R/dev"; mount --rbind /sys "$R/sys"; mount -t proc proc "$R/proc"
mount --rbind "$LAB" "$R$LAB"; mount --bind "$CHECKOUT" "$R$CHECKOUT"
mount --bind "$R/fusedev" "$R/dev/fuse"
cd "$R"; pivot_root . old; umount -l /old; cd "$W"
set -- setpriv --reuid {caller} --regid {caller} --clear-groups --inh-caps=-all --ambient-caps=-all apptainer "$@"
[ -z "${{NO_NAMESPACES-}}" ] || set -- unshare --user --map-users=0,0,65536 --map-groups=0,0,65536 \\
  sh -c "echo 0 >/proc/sys/user/max_user_namespaces; exec \\"\\$@\\"" sh "$@"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/home/ci TMPDIR="$LAB/tmp" LANG=C.UTF-8 \\
  APPTAINER_MKSQUASHFS_ARGS="-comp zstd -Xcompression-level 1" "$@"' sh "$@"
"""


@dataclass(frozen=True)
class Built:
    """An image that was built twice: its IDs, and the variables of the store that holds the first."""

    first: str
    second: str
    store: dict[str, str]


def run(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that has to work; `more` goes into its environment."""
    done = subprocess.run([*map(str, words)], env={**os.environ, **more}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{words[0]} failed: {done.stderr[-2000:]}"
    return done


def as_user(user: int) -> list[str]:
    """What makes the command after it another user's."""
    ordinary = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=+all,-sys_resource"]
    return [*ordinary, "--ambient-caps=+all,-sys_resource"] if user else []


def spac_repro(*words: object, user: int = 0, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run spac-repro as a user without a name here, who may all the same read the interpreter, wherever that lies."""
    given = {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "HF_HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*as_user(user), sys.executable, "-m", "spac_repro", *map(str, words)],
        env={**os.environ, **given, **more},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def install() -> None:
    """Install the container runtimes from Debian, or skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root may start container runtimes")
    try:
        needs.install("images")
    except needs.NotHereError as reason:
        pytest.skip(str(reason))


def sources(folder: Path, suites: str) -> Path:
    """The machine's own apt source with other suites; a mirror's index of sid may be past its date."""
    there = Path("/etc/apt/sources.list.d/debian.sources")
    if not there.exists():
        pytest.skip(f"no {there}: this is not the Debian that the base is made from")
    lines = [line for line in there.read_text().split("\n\n")[0].splitlines() if not line.startswith("#")]
    file = folder / f"{suites.split()[0]}.sources"
    file.write_text("\n".join(f"Suites: {suites}" if line.startswith("Suites:") else line for line in lines) + "\n")
    return file


def base(folder: Path) -> Path:
    """A build context for a base image: Debian's Python 3.11 with venv, and no more."""
    folder.mkdir()
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", "--include=python3.11,python3.11-venv,python3,ca-certificates"),
        *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
        "--customize-hook=rm -f $1/etc/resolv.conf $1/etc/hostname",
        *("bookworm", folder / "base.tar", sources(folder, "bookworm bookworm-updates")),
        SOURCE_DATE_EPOCH="1700000000",
    )
    (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    return folder


def apptainer(folder: Path) -> Path:
    """A folder to put on the PATH: `apptainer`, a real one."""
    root, programs = folder / "root", folder / "bin"
    programs.mkdir(parents=True)
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", "--include=apptainer,ca-certificates,squashfuse,fuse3"),
        *('--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Install-Recommends "false"'),
        *('--aptopt=APT::Default-Release "trixie"', "--dpkgopt=path-exclude=/usr/share/man/*"),
        *("--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*"),
        *("trixie", root, sources(folder, "trixie sid")),
    )
    run("chroot", root, "useradd", "--create-home", "--uid", CALLER, "ci")
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text("ci:100000:65536\n")
    run("mknod", "-m", "666", root / "fusedev", "c", "10", "229")
    program = programs / "apptainer"
    program.write_text(APPTAINER.format(root=root, lab=folder.parent, checkout=CHECKOUT, caller=CALLER))
    program.chmod(0o755)
    return programs


@contextmanager
def podman(folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Podman's service over a store; where it listens, which is where it does by default if XDG_RUNTIME_DIR is the folder."""
    (folder / "podman").mkdir(exist_ok=True)
    where = f"unix://{folder}/podman/podman.sock"
    with started(["podman", "system", "service", "--time", "0", where], folder / "podman.log", variables, where):
        yield where


@contextmanager
def docker(folder: Path) -> Iterator[str]:
    """A Docker daemon without a network; its address."""
    folder.mkdir()
    where = f"unix://{folder}/docker.sock"
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host={where}"]
    with started(["dockerd", *places, "--iptables=false", "--bridge=none"], folder / "docker.log", {}, where):
        yield where


@contextmanager
def started(words: list[str], log: Path, variables: Mapping[str, str], where: str) -> Iterator[None]:
    """A service that runs while the block does."""
    socket = Path(where.removeprefix("unix://"))
    with log.open("w") as file:
        process = subprocess.Popen(words, env={**os.environ, **variables}, stdout=file, stderr=file)
    try:
        if not became(socket.exists, 60, process):
            pytest.skip(f"{words[0]} does not run here: {log.read_text()[-300:]}")
        socket.chmod(0o666)
        yield
    finally:
        process.terminate()
        process.wait(60)


def became(true: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes]) -> bool:
    """Wait until something is true, the process lives, and the time is not over."""
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def remove(folder: Path) -> None:
    """Unmount what the runtimes left mounted below a folder, and remove it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounts if place.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", place], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def owned(folder: Path) -> Path:
    """A new folder of the ordinary user's."""
    folder.mkdir()
    os.chown(folder, CALLER, CALLER)
    return folder
