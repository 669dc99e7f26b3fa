"""Building the image from a checkout.

Packages are fetched outside, by the pip that is configured here, and the build itself has no network. So nothing of this machine's
configuration (package sources, proxies, certificates) gets near the image, and a build repeats where nothing can be fetched.
"""

import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import spac_repro
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import engine as engines
from spac_repro.images import sif
from spac_repro.runs import environment
from spac_repro.runs import files as runs

CHECKOUT = Path(__file__).resolve().parents[2]
CONTENT = ("container", "expected_results", "launchers", "requirements", "spac_repro", "LICENSE", "README.md", "pyproject.toml")
RECIPES = ("Dockerfile", ".dockerignore", "apptainer.def")
FILES = ("docker-archive", "oci-archive", "localimage")  # bases of a SIF that are files
COMPLETE = tuple(f"{kind}:" for kind in (*FILES, "docker-daemon"))  # and those that are images of ours

Say = Callable[[str], None]


def build(
    engine: str, variant: str, *, tag: str | None, base: str | None, out: Path | None, say: Say, source: str | None = None
) -> str:
    """Build the image, and return what to call it by: `docker:TAG`, `podman:TAG` or `apptainer:FILE`.

    Args:
        engine: docker, podman or apptainer.
        variant: cpu or cuda.
        tag: name of a Docker or Podman image; by default spac-repro:VERSION-VARIANT.
        base: another base than the pinned one; for apptainer with its kind before it, e.g. docker-archive:image.tar.
        out: the SIF; by default spac-repro-VERSION-VARIANT.sif.
        say: takes a line of progress.
        source: where the source code is found, for the image's label.

    Raises:
        UnfitEnvironmentError: no checkout, no engine, a package that cannot be had, or a build that fails.
    """
    name = f"{spac_repro.__version__}-{variant}"
    _check(engine)  # before half a gigabyte is fetched
    arguments = {"VARIANT": variant, "VERSION": spac_repro.__version__, "REVISION": revision()}
    arguments |= {"SOURCE": source} if source else {}
    if engine == "apptainer":
        file = (out or Path(f"spac-repro-{name}.sif")).absolute()
        _apptainer(context(variant, base, say), arguments, base, file, say)
        return f"apptainer:{file}"
    tag = tag or f"spac-repro:{name}"
    arguments |= {"BASE": base} if base else {}
    if engine == "podman":
        _podman(context(variant, None, say), arguments, tag, say)
    else:
        _docker(context(variant, None, say), arguments, tag, say)
    return f"{engine}:{tag}"


def _check(engine: str) -> None:
    """An engine that can build, and say what it has built."""
    if engine == "apptainer":
        sif.program()
        return
    if engine == "podman" and shutil.which("podman") is None:
        raise UnfitEnvironmentError("podman is not installed: there is no such command; install it, or take another engine")
    with engines.connected(engine):
        pass


def revision() -> str:
    """The commit that is built, with `+changed` where files differ from it."""
    source = environment.source_revision()
    return f"{source['commit']}{'+changed' if source['changed'] else ''}" if source else "unknown"


def context(variant: str, base: str | None, say: Say) -> Path:
    """A folder with all that a build needs, the packages included."""
    if not (CHECKOUT / "Dockerfile").exists():
        raise UnfitEnvironmentError("an image is built from a checkout, and this is an installed package; clone the repository")
    complete = (base or "").startswith(COMPLETE)  # one of our own images, which brings everything along
    folder = CHECKOUT / "build" / ("sif" if complete else f"image-{variant}")
    for name in (*CONTENT, *RECIPES):
        _renew(CHECKOUT / name, folder / name)
    if not complete:
        _fetch(folder / "wheels", variant, say)
    return folder


def _renew(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _fetch(folder: Path, variant: str, say: Say) -> None:
    """The packages of the locks, every hash checked. Where all are there already nobody is asked: a build then needs no network."""
    # The tools of the build and what ships are two environments: they may hold one package in two versions.
    for locks in (("image",), ("base", variant)):
        if _download(folder, locks, "--no-index").returncode == 0:
            continue
        say(f"fetching the packages of {' and '.join(f'requirements/{name}.lock' for name in locks)}")
        done = _download(folder, locks)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            why = said[-1] if said else done.stderr.strip()
            hint = "; PyTorch's CPU build needs a source that has it in your pip configuration" if "torch==" in why else ""
            raise UnfitEnvironmentError(f"pip cannot fetch what the image is made of: {why}{hint}")


def _download(folder: Path, locks: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    # A few packages have no wheel: pip asks them for their metadata, with the build tools of this environment, not fetched ones.
    always = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--require-hashes")
    files = [f"--requirement={CHECKOUT / 'requirements' / name}.lock" for name in locks]
    command = [sys.executable, "-m", "pip", "download", *always, f"--find-links={folder}", f"--dest={folder}", *options, *files]
    return subprocess.run(command, capture_output=True, text=True)


def _docker(folder: Path, arguments: Mapping[str, str], tag: str, say: Say) -> None:
    from docker.errors import APIError

    with engines.connected("docker") as client:
        try:
            stream = client.api.build(
                path=str(folder), tag=tag, buildargs=dict(arguments), rm=True, forcerm=True, network_mode="none", decode=True
            )
            for event in stream:
                if "error" in event:
                    raise UnfitEnvironmentError(f"the build failed: {' '.join(event['error'].split())}; see the lines above")
                for line in event.get("stream", "").splitlines():
                    say(line)
        except APIError as error:
            raise UnfitEnvironmentError(f"docker cannot build: {' '.join(str(error.explanation).split())}") from None


def _podman(folder: Path, arguments: Mapping[str, str], tag: str, say: Say) -> None:
    """Podman's own command, since it alone sets the clock: equal input then gives the same image ID.

    In the OCI format: Docker's own would name the container that an image was made in, another one each time.
    """
    options = ["--timestamp", epoch(), "--network", "none", "--layers=false", "--tag", tag]
    given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    _carry_out(["podman", "build", *options, *given, str(folder)], folder, say)


def epoch() -> str:
    """The time that all of the image's files bear: the commit's."""
    done = subprocess.run(["git", "-C", str(CHECKOUT), "log", "-1", "--format=%ct"], capture_output=True, text=True)
    return done.stdout.strip() or "1700000000"


def _apptainer(folder: Path, arguments: Mapping[str, str], base: str | None, file: Path, say: Say) -> None:
    origin = _origin(base, folder) if base else {}
    given = [f"--build-arg={name}={value}" for name, value in {**arguments, **origin}.items()]
    privilege = [] if os.geteuid() == 0 else ["--fakeroot"]
    _carry_out([sif.program(), "build", "--force", *privilege, *given, str(file), "apptainer.def"], folder, say)
    runs.write_bytes(file.with_name(f"{file.name}.sha256"), f"{runs.sha256_file(file)}  {file.name}\n".encode())


def _origin(base: str, folder: Path) -> dict[str, str]:
    """A base as apptainer.def's header names it. A file goes by a link beside the folder, since a SIF keeps its base's path."""
    kind, _, place = base.partition(":")
    if kind not in FILES:
        return {"BOOTSTRAP": kind, "FROM": place.removeprefix("//")}
    file = Path(place).expanduser().absolute()
    if not file.is_file():
        raise UserError(f"there is no file {place} to build from; see to --base")
    link = folder.with_name("base" + file.suffix)
    link.unlink(missing_ok=True)
    link.symlink_to(file)
    return {"BOOTSTRAP": kind, "FROM": f"../{link.name}"}


def _carry_out(command: list[str], folder: Path, say: Say) -> None:
    """Run a build, pass its lines on, and say how it failed by its last ones."""
    last: deque[str] = deque(maxlen=3)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in _lines(process.stdout):
                last.append(line)
                say(line)
        except BaseException:
            process.terminate()  # it would build on, and this would wait for it
            raise
    if process.returncode:
        raise UnfitEnvironmentError(f"the build failed: {' / '.join(last)}")


def _lines(stream: Iterable[Any]) -> Iterable[str]:
    return (line.rstrip() for line in stream if line.strip())
