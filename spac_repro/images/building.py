"""Build the image from a checkout.

Packages are downloaded on the host, by the pip that is configured there; the build itself has no network. So no configuration of
this machine (package indexes, proxies, certificates) gets into the image, and a build can be repeated offline.
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
from spac_repro.images import apptainer, runtime
from spac_repro.runs import environment, files

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = ("container", "expected_results", "launchers", "requirements", "spac_repro", "LICENSE", "README.md", "pyproject.toml")
BUILD_FILES = ("Dockerfile", ".dockerignore", "apptainer.def")
SHIPPED_LOCKS = {"cpu": ("base", "cpu"), "cuda": ("base", "cuda", "compiler")}  # as container/install.sh has them
FILE_BASES = ("docker-archive", "oci-archive", "localimage")  # kinds of a SIF's base that are files
BUILT_BASES = tuple(f"{kind}:" for kind in (*FILE_BASES, "docker-daemon"))  # an image of spac-repro itself, which is only converted

Log = Callable[[str], None]  # takes a line of progress


def build(
    runtime_name: str, variant: str, *, tag: str | None, base: str | None, out: Path | None, log: Log, source: str | None = None
) -> str:
    """Build the image.

    Args:
        runtime_name: docker, podman or apptainer.
        variant: cpu or cuda.
        tag: name of a Docker or Podman image; by default spac-repro:VERSION-VARIANT.
        base: a base image instead of the pinned one; for apptainer with its kind before it, e.g. docker-archive:image.tar.
        out: the SIF file; by default spac-repro-VERSION-VARIANT.sif.
        log: takes a line of progress.
        source: URL of the source code, for the image's label.

    Returns:
        The reference of the image: `docker:TAG`, `podman:TAG` or `apptainer:FILE`.

    Raises:
        UserError: the base's file does not exist.
        UnfitEnvironmentError: this is not a checkout, the runtime does not work here, a package cannot be downloaded, or the build
            fails.
    """
    name = f"{spac_repro.__version__}-{variant}"
    _check_runtime(runtime_name)  # before half a gigabyte is downloaded
    arguments = {"VARIANT": variant, "VERSION": spac_repro.__version__, "REVISION": revision()}
    arguments |= {"SOURCE": source} if source else {}
    if runtime_name == "apptainer":
        file = (out or Path(f"spac-repro-{name}.sif")).absolute()
        _build_with_apptainer(build_context(variant, base, log), arguments, base, file, log)
        return f"apptainer:{file}"
    tag = tag or f"spac-repro:{name}"
    arguments |= {"BASE": base} if base else {}
    if runtime_name == "podman":
        _build_with_podman(build_context(variant, None, log), arguments, tag, log)
    else:
        _build_with_docker(build_context(variant, None, log), arguments, tag, log)
    return f"{runtime_name}:{tag}"


def _check_runtime(name: str) -> None:
    """Raise UnfitEnvironmentError unless the runtime can build here and can inspect what it has built."""
    if name == "apptainer":
        apptainer.executable()
        return
    if name == "podman" and shutil.which("podman") is None:
        raise UnfitEnvironmentError("podman is not installed: there is no such command; install it, or use another runtime")
    with runtime.connect(name):
        pass


def revision() -> str:
    """The commit that is built, with `+changed` if the working tree differs from it."""
    source = environment.source_revision()
    return f"{source['commit']}{'+changed' if source['changed'] else ''}" if source else "unknown"


def build_context(variant: str, base: str | None, log: Log) -> Path:
    """Prepare the folder that a build reads (Docker's build context): sources, build files and downloaded packages.

    Raises:
        UnfitEnvironmentError: this is not a checkout, or a package cannot be downloaded.
    """
    if not (CHECKOUT / "Dockerfile").exists():
        raise UnfitEnvironmentError("an image is built from a checkout, but this is an installed package; clone the repository")
    built = (base or "").startswith(BUILT_BASES)
    folder = CHECKOUT / "build" / ("sif" if built else f"image-{variant}")
    for name in (*SOURCES, *BUILD_FILES):
        _replace_copy(CHECKOUT / name, folder / name)
    if not built:
        _download_packages(folder / "wheels", variant, log)
    return folder


def _replace_copy(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _download_packages(folder: Path, variant: str, log: Log) -> None:
    """Download the packages of the lock files, checking every hash. Without network access if they are all there already."""
    # The build tools and the shipped packages are two environments, which may hold one package in two versions.
    for locks in (("image",), SHIPPED_LOCKS[variant]):
        if _pip_download(folder, locks, offline=True).returncode == 0:
            continue
        log(f"downloading the packages of {' and '.join(f'requirements/{name}.lock' for name in locks)}")
        done = _pip_download(folder, locks)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            problem = errors[-1] if errors else done.stderr.strip()
            hint = "; add a package index with PyTorch's CPU build to your pip configuration" if "torch==" in problem else ""
            raise UnfitEnvironmentError(f"pip cannot download the image's packages: {problem}{hint}")


def _pip_download(folder: Path, locks: Sequence[str], *, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """Download into a folder. Offline, pip sees this folder and no configuration: another one may hold PyTorch's other build."""
    # A few packages have no wheel. To read their metadata, pip uses the build tools of this environment and downloads none.
    always = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--require-hashes")
    files = [f"--requirement={CHECKOUT / 'requirements' / name}.lock" for name in locks]
    options = ["--no-index"] if offline else []
    command = [sys.executable, "-m", "pip", "download", *always, f"--find-links={folder}", f"--dest={folder}", *options, *files]
    unconfigured = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    variables = {**unconfigured, "PIP_CONFIG_FILE": os.devnull} if offline else None
    return subprocess.run(command, capture_output=True, text=True, env=variables)


def _build_with_docker(folder: Path, arguments: Mapping[str, str], tag: str, log: Log) -> None:
    from docker.errors import APIError

    with runtime.connect("docker") as client:
        try:
            stream = client.api.build(
                path=str(folder), tag=tag, buildargs=dict(arguments), rm=True, forcerm=True, network_mode="none", decode=True
            )
            for event in stream:
                if "error" in event:
                    raise UnfitEnvironmentError(f"the build failed: {' '.join(event['error'].split())}; see the lines above")
                for line in event.get("stream", "").splitlines():
                    log(line)
        except APIError as error:
            raise UnfitEnvironmentError(f"docker cannot build: {' '.join(str(error.explanation).split())}") from None


def _build_with_podman(folder: Path, arguments: Mapping[str, str], tag: str, log: Log) -> None:
    """Build with the `podman` command, which alone can set file times, so that equal input gives an equal image ID.

    The image format is OCI: Docker's format would record the ID of the build container, which differs each time.
    """
    options = ["--timestamp", source_date_epoch(), "--network", "none", "--layers=false", "--tag", tag]
    build_arguments = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    _run_build(["podman", "build", *options, *build_arguments, str(folder)], folder, log)


def source_date_epoch() -> str:
    """The time that every file of the image gets: the commit's, in seconds since 1970."""
    done = subprocess.run(["git", "-C", str(CHECKOUT), "log", "-1", "--format=%ct"], capture_output=True, text=True)
    return done.stdout.strip() or "1700000000"


def _build_with_apptainer(folder: Path, arguments: Mapping[str, str], base: str | None, file: Path, log: Log) -> None:
    base_arguments = _base_arguments(base, folder) if base else {}
    build_arguments = [f"--build-arg={name}={value}" for name, value in {**arguments, **base_arguments}.items()]
    privilege = [] if os.geteuid() == 0 else ["--fakeroot"]
    _run_build([apptainer.executable(), "build", "--force", *privilege, *build_arguments, str(file), "apptainer.def"], folder, log)
    files.write_bytes(file.with_name(f"{file.name}.sha256"), f"{files.sha256_file(file)}  {file.name}\n".encode())


def _base_arguments(base: str, folder: Path) -> dict[str, str]:
    """The base as build arguments of apptainer.def.

    A SIF records the path of its base. So a file is named by a link next to the build folder: that path is equal everywhere.
    """
    kind, _, location = base.partition(":")
    if kind not in FILE_BASES:
        return {"BOOTSTRAP": kind, "FROM": location.removeprefix("//")}
    file = Path(location).expanduser().absolute()
    if not file.is_file():
        raise UserError(f"--base: there is no file {location}; check the path")
    link = folder.with_name("base" + file.suffix)
    link.unlink(missing_ok=True)
    link.symlink_to(file)
    return {"BOOTSTRAP": kind, "FROM": f"../{link.name}"}


def _run_build(command: list[str], folder: Path, log: Log) -> None:
    """Run a build and log its output. If it fails, the error quotes the last lines."""
    last_lines: deque[str] = deque(maxlen=3)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in _lines(process.stdout):
                last_lines.append(line)
                log(line)
        except BaseException:
            process.terminate()  # otherwise the build would continue, and this would wait for it
            raise
    if process.returncode:
        raise UnfitEnvironmentError(f"the build failed: {' / '.join(last_lines)}")


def _lines(stream: Iterable[Any]) -> Iterable[str]:
    return (line.rstrip() for line in stream if line.strip())
