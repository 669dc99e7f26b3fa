"""Docker and Podman, through docker-py and the engine's socket."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import command as inner
from spac_repro.images.command import Command, Limits
from spac_repro.images.reference import NVIDIA, SHARE, Identity, Reference, check_version

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

KILLED = 137
PATIENCE = 60  # seconds for a run to end by itself once it was asked to


def socket(engine: str) -> str:
    """Where the engine listens: as its own variable says, or where it does by default."""
    if engine == "docker":
        return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if "CONTAINER_HOST" in os.environ:
        return os.environ["CONTAINER_HOST"]
    own = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")) / "podman" / "podman.sock"
    return f"unix://{own if own.exists() else '/run/podman/podman.sock'}"


@contextmanager
def connected(engine: str) -> Iterator["DockerClient"]:
    """A client of the engine.

    Raises:
        UnfitEnvironmentError: no engine, one that does not run, or one that the user may not use.
    """
    import docker
    from docker.errors import DockerException

    where = socket(engine)
    try:
        client = docker.DockerClient(base_url=where, version="auto", timeout=600)
    except DockerException as error:
        raise UnfitEnvironmentError(_unreachable(engine, where, error)) from None
    try:
        yield client
    finally:
        client.close()


def _unreachable(engine: str, where: str, error: Exception) -> str:
    whose = "" if os.geteuid() == 0 else "--user "
    start = {"docker": "systemctl start docker", "podman": f"systemctl {whose}start podman.socket"}[engine]
    path = Path(where.removeprefix("unix://"))
    if not where.startswith("unix://"):
        return f"no {engine} engine answers at {where} ({error}); see to the variable that names it"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"you may not use {engine}'s socket {path}; ask for that right, or use apptainer, which needs none"
    if path.exists():
        return f"{engine} does not answer at {path}, so it is installed and not running; start it (`{start}`)"
    if shutil.which(engine):
        return f"{engine} is installed and not running: there is no socket {path}; start it (`{start}`)"
    return f"{engine} is not installed: no command `{engine}` and no socket {path}; install it, or take another engine"


def find(client: "DockerClient", reference: Reference) -> Identity:
    """Look an image up.

    Raises:
        UserError: the engine has no such image.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        image = client.images.get(reference.name)
    except (ImageNotFound, APIError):
        build = f"spac-repro image build --engine {reference.engine}"
        raise UserError(
            f"{reference.engine} has no image {reference.name}; build it with `{build}`, "
            f"or fetch it with `{reference.engine} pull` or `{reference.engine} load`"
        ) from None
    digest = image.id if image.id.startswith("sha256:") else f"sha256:{image.id}"
    return Identity(f"oci:{digest}", dict(image.labels), int(image.attrs["Size"]))


def inspect(reference: Reference) -> Identity:
    """What an image is."""
    with connected(reference.engine) as client:
        return find(client, reference)


def read(reference: Reference, name: str) -> bytes:
    """A file that the image says about itself: the bill of materials, the licences."""
    import io
    import tarfile

    from docker.errors import NotFound

    with connected(reference.engine) as client:
        identity = find(client, reference)
        container = client.containers.create(identity.digest.removeprefix("oci:"), network_mode="none")
        try:
            pieces, _ = container.get_archive(f"{SHARE}/{name}")
            with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
                file = archive.extractfile(name)
                assert file is not None  # the engine gave what it was asked for
                return file.read()
        except NotFound:
            raise UserError(f"{reference} holds no {name}; it is not an image of spac-repro") from None
        finally:
            container.remove(force=True, v=True)


def run(reference: Reference, command: Command, limits: Limits) -> int:
    """Carry out a command in a container, and return its exit status.

    The container is read-only but for what the command writes to and a temporary file system, holds no capability, and has no
    network unless that is allowed. What it writes belongs to the caller.

    Raises:
        UnfitEnvironmentError: the engine cannot start it, or it was killed.
        UserError: no such image, an image of another version, a path that cannot be mounted.
    """
    from docker.errors import DockerException
    from requests import RequestException

    with connected(reference.engine) as client, inner.mounted(command):
        identity = find(client, reference)
        check_version(reference, identity, other_version=limits.other_version)
        container = _create(client, reference, identity, command, limits)
        try:
            status = _attend(container)
            container.reload()
            if status == KILLED:
                raise inner.killed("the container", limits, out_of_memory=bool(container.attrs["State"].get("OOMKilled")))
            return status
        except (DockerException, RequestException):
            raise UnfitEnvironmentError(
                f"{reference.engine} stopped answering during the run, which may go on in container {container.short_id}; "
                f"see to {reference.engine}, then repeat the command"
            ) from None
        finally:
            with suppress(DockerException, RequestException):
                container.remove(force=True, v=True)


def _create(client: "DockerClient", reference: Reference, identity: Identity, command: Command, limits: Limits) -> "Container":
    from docker.errors import APIError
    from docker.types import Mount

    user, userns = _user(client, reference.engine)
    try:
        container = client.containers.create(
            identity.digest.removeprefix("oci:"),
            list(command.arguments),
            user=user,
            userns_mode=userns,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode=None if limits.network else "none",
            hostname=None if limits.network else os.uname().nodename,  # a run folder in use names its node
            mounts=[Mount(str(path), str(path), type="bind", read_only=not written) for path, written in inner.mounts(command)],
            tmpfs={"/tmp": "mode=1777", "/work": "mode=1777"},
            shm_size="8g",  # an upper bound for what NCCL takes between GPUs, not a reservation
            working_dir="/tmp",
            environment=inner.variables(identity.digest, limits),
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            tty=_terminal(),
            **_gpus(reference.engine, identity),
        )
        container.start()
    except APIError as error:
        raise UnfitEnvironmentError(
            f"{reference.engine} cannot start {reference.name}: {' '.join(str(error.explanation).split())}"
        ) from None
    return container


def _user(client: "DockerClient", engine: str) -> tuple[str, str | None]:
    """Who the process inside has to be, for its files to belong to the caller."""
    if not any("rootless" in option for option in client.info().get("SecurityOptions") or []):
        return f"{os.getuid()}:{os.getgid()}", None
    # Without root, the caller is the container's root by default; Podman can keep the number.
    return (f"{os.getuid()}:{os.getgid()}", "keep-id") if engine == "podman" else ("0:0", None)


def _gpus(engine: str, identity: Identity) -> dict[str, Any]:
    from docker.types import DeviceRequest

    if not identity.has_cuda or not NVIDIA.exists():
        return {}
    if engine == "podman":
        return {"devices": ["nvidia.com/gpu=all"]}
    return {"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]}


def _terminal() -> bool:
    """Whether a person watches: then the progress bar inside may draw itself."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def _attend(container: "Container") -> int:
    """Pass on what the container says, and to it what interrupts us; its exit status."""
    from docker.errors import APIError

    if _terminal():
        size = shutil.get_terminal_size()
        with suppress(Exception):  # a container that has ended already has no terminal
            container.resize(size.lines, size.columns)
    pump = Thread(target=_stream, args=(container,), daemon=True)
    pump.start()
    try:
        status = _status(container)
    except KeyboardInterrupt:
        with suppress(APIError):  # it has just ended by itself
            # SIGINT: Python heeds it from its first moment, and a container's first process ignores what it does not handle.
            container.kill("SIGINT")
        status = _status(container)  # a second interruption ends the wait, and the container with it
    pump.join(PATIENCE)
    return status


def _status(container: "Container") -> int:
    return int(container.wait(timeout=None)["StatusCode"])


def _stream(container: "Container") -> None:
    if _terminal():
        for piece in container.attach(stream=True, logs=True):
            _write(sys.stdout, piece)
        return
    for out, err in container.attach(stream=True, logs=True, demux=True):
        _write(sys.stdout, out)
        _write(sys.stderr, err)


def _write(stream: Any, piece: bytes | None) -> None:
    if piece:
        stream.buffer.write(piece)
        stream.flush()
