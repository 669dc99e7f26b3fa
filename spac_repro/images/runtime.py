"""Docker and Podman, through docker-py and the runtime's socket."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import command as in_container
from spac_repro.images.command import ContainerCommand, ContainerOptions
from spac_repro.images.reference import METADATA_FOLDER, NVIDIA_DEVICE, ImageIdentity, ImageReference, check_version

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

EXIT_KILLED = 137
SHARED_MEMORY = "8g"  # upper bound, for NCCL between GPUs; nothing is reserved
COMPILED_CODE = "/var/cache/spac-repro"  # in the container
OUTPUT_SECONDS = 60  # how long the last output of a finished container is waited for


def socket_address(runtime: str) -> str:
    """The address of the runtime's API: from its own environment variable, or its default socket."""
    if runtime == "docker":
        return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if "CONTAINER_HOST" in os.environ:
        return os.environ["CONTAINER_HOST"]
    own = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")) / "podman" / "podman.sock"
    return f"unix://{own if own.exists() else '/run/podman/podman.sock'}"


@contextmanager
def connect(runtime: str) -> Iterator["DockerClient"]:
    """Connect to the runtime ("docker" or "podman") through docker-py.

    Raises:
        UnfitEnvironmentError: the runtime is not installed, is not running, or may not be used by this user.
    """
    import docker
    from docker.errors import DockerException

    address = socket_address(runtime)
    try:
        given = docker.utils.kwargs_from_env() if runtime == "docker" else {}  # DOCKER_TLS_VERIFY and DOCKER_CERT_PATH
        client = docker.DockerClient(**{"base_url": address, **given}, version="auto", timeout=600)
    except DockerException as error:
        raise UnfitEnvironmentError(_explain_unreachable(runtime, address, error)) from None
    try:
        yield client
    finally:
        client.close()


def _explain_unreachable(runtime: str, address: str, error: Exception) -> str:
    """Say why the runtime cannot be reached, and what to do."""
    user_option = "" if os.geteuid() == 0 else "--user "
    start = {"docker": "systemctl start docker", "podman": f"systemctl {user_option}start podman.socket"}[runtime]
    path = Path(address.removeprefix("unix://"))
    if not address.startswith("unix://"):
        return f"{runtime} does not answer at {address} ({error}); check the environment variable that sets this address"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"you have no permission for {runtime}'s socket {path}; ask for it, or use apptainer, which needs none"
    if path.exists():
        return f"{runtime} is installed but does not answer at {path}; start it (`{start}`)"
    if shutil.which(runtime):
        return f"{runtime} is installed but not running: there is no socket {path}; start it (`{start}`)"
    return f"{runtime} is not installed: no command `{runtime}` and no socket {path}; install it, or use another runtime"


def find_image(client: "DockerClient", reference: ImageReference) -> ImageIdentity:
    """Look up an image by its name or ID.

    Raises:
        UserError: the runtime has no such image.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        image = client.images.get(reference.name)
    except (ImageNotFound, APIError):
        build = f"spac-repro image build --runtime {reference.runtime}"
        raise UserError(
            f"{reference.runtime} has no image {reference.name}; build it with `{build}`, "
            f"or fetch it with `{reference.runtime} pull` or `{reference.runtime} load`"
        ) from None
    digest = image.id if image.id.startswith("sha256:") else f"sha256:{image.id}"
    return ImageIdentity(f"oci:{digest}", dict(image.labels), int(image.attrs["Size"]))


def inspect(reference: ImageReference) -> ImageIdentity:
    """Return the image's ID, labels and size. Raises as `connect` and `find_image` do."""
    with connect(reference.runtime) as client:
        return find_image(client, reference)


def read_file(reference: ImageReference, name: str) -> bytes:
    """Read a file of the image's METADATA_FOLDER.

    Raises:
        UserError: there is no such image, or no such file in it.
        UnfitEnvironmentError: the runtime does not work here.
    """
    import io
    import tarfile

    from docker.errors import NotFound

    with connect(reference.runtime) as client:
        identity = find_image(client, reference)
        container = client.containers.create(identity.digest.removeprefix("oci:"), network_mode="none")
        try:
            pieces, _ = container.get_archive(f"{METADATA_FOLDER}/{name}")
            with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
                file = archive.extractfile(name)
                assert file is not None  # it is a regular file
                return file.read()
        except NotFound:
            raise UserError(f"{reference} holds no {name}; it is not an image of spac-repro") from None
        finally:
            container.remove(force=True, v=True)


def run(reference: ImageReference, command: ContainerCommand, options: ContainerOptions) -> int:
    """Run a command in a container.

    The container's root file system is read-only; only the command's output folders and a temporary file system are writable. The
    container has no capabilities, and no network unless `options` allow it. Files that it writes belong to the calling user.

    Returns:
        The command's exit status.

    Raises:
        UnfitEnvironmentError: the runtime cannot start the container, stops answering, or the container was killed.
        UserError: there is no such image, it holds another version, or a path cannot be mounted.
    """
    from docker.errors import DockerException
    from requests import RequestException

    with connect(reference.runtime) as client, in_container.output_folders(command):
        identity = find_image(client, reference)
        check_version(reference, identity, other_version=options.other_version)
        container = _start_container(client, reference, identity, command, options)
        try:
            status = _wait_for_exit(container)
            container.reload()
            if status == EXIT_KILLED:
                raise in_container.killed_error(
                    "the container", options, out_of_memory=bool(container.attrs["State"].get("OOMKilled"))
                )
            return status
        except (DockerException, RequestException):
            raise UnfitEnvironmentError(
                f"{reference.runtime} stopped answering; the run may still be active in container {container.short_id}; "
                f"restart {reference.runtime}, then repeat the command"
            ) from None
        finally:
            with suppress(DockerException, RequestException):
                container.remove(force=True, v=True)


def _start_container(
    client: "DockerClient", reference: ImageReference, identity: ImageIdentity, command: ContainerCommand, options: ContainerOptions
) -> "Container":
    from docker.errors import APIError
    from docker.types import Mount

    user, userns = _user_ids(client, reference.runtime)
    try:
        container = client.containers.create(
            identity.digest.removeprefix("oci:"),
            list(command.arguments),
            user=user,
            userns_mode=userns,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode=None if options.network else "none",
            hostname=None if options.network else os.uname().nodename,  # the lock of a run folder names the node
            mounts=[
                Mount(str(path), str(path), type="bind", read_only=not writable)
                for path, writable in in_container.mounts(command, options)
            ],
            tmpfs=_writable_folders(identity),
            shm_size=SHARED_MEMORY,
            working_dir="/tmp",
            environment=in_container.environment_variables(identity.digest, options, caches=_compiled_code(identity)),
            mem_limit=options.memory,
            memswap_limit=options.memory,
            tty=_on_terminal(),
            **_gpus(reference.runtime, identity),
        )
        container.start()
    except APIError as error:
        raise UnfitEnvironmentError(
            f"{reference.runtime} cannot start {reference.name}: {' '.join(str(error.explanation).split())}"
        ) from None
    return container


def _user_ids(client: "DockerClient", runtime: str) -> tuple[str, str | None]:
    """The user and the user namespace mode with which new files belong to the calling user."""
    if not any("rootless" in option for option in client.info().get("SecurityOptions") or []):
        return f"{os.getuid()}:{os.getgid()}", None
    # Rootless runtimes map the caller to root in the container; Podman can keep the user ID instead.
    return (f"{os.getuid()}:{os.getgid()}", "keep-id") if runtime == "podman" else ("0:0", None)


def _writable_folders(identity: ImageIdentity) -> dict[str, str]:
    """The folders that a container can write to, with their options. Where kernels are compiled, one of them is executable."""
    folders = dict.fromkeys(("/tmp", "/work"), "mode=1777,noexec,nosuid,nodev")  # Podman would mount them executable
    return folders | ({COMPILED_CODE: "mode=1777,exec,nosuid,nodev"} if identity.has_cuda else {})


def _compiled_code(identity: ImageIdentity) -> str:
    """The folder for compiled code. The cpu image compiles none, but torch creates its folder all the same."""
    return COMPILED_CODE if identity.has_cuda else "/tmp"


def _gpus(runtime: str, identity: ImageIdentity) -> dict[str, Any]:
    from docker.types import DeviceRequest

    if not identity.has_cuda or not NVIDIA_DEVICE.exists():
        return {}
    if runtime == "podman":
        return {"devices": ["nvidia.com/gpu=all"]}
    return {"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]}


def _on_terminal() -> bool:
    """Whether the output goes to a terminal, so that the container needs one for its progress bar."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def _wait_for_exit(container: "Container") -> int:
    """Print the container's output, forward an interruption to it, and return its exit status."""
    from docker.errors import APIError

    if _on_terminal():
        size = shutil.get_terminal_size()
        with suppress(Exception):  # it may have exited already
            container.resize(size.lines, size.columns)
    printer = Thread(target=_print_output, args=(container,), daemon=True)
    printer.start()
    try:
        status = _exit_status(container)
    except KeyboardInterrupt:
        with suppress(APIError):  # it has just exited
            # SIGINT, because Python handles it from its start on; process 1 of a container ignores signals without a handler.
            container.kill("SIGINT")
        status = _exit_status(container)  # a second interruption raises here, and the caller removes the container
    printer.join(OUTPUT_SECONDS)
    return status


def _exit_status(container: "Container") -> int:
    return int(container.wait(timeout=None)["StatusCode"])


def _print_output(container: "Container") -> None:
    if _on_terminal():
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
