"""Apptainer, for clusters without Docker or Podman: an image is a SIF file, and an ordinary user can run it."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import command as in_container
from spac_repro.images.command import ContainerCommand, ContainerOptions
from spac_repro.images.reference import METADATA_FOLDER, NVIDIA_DEVICE, ImageIdentity, ImageReference, check_version
from spac_repro.runs import files

# What every container is started with: it shares neither files, variables nor processes with the host, and has no home. Root, too,
# has no capabilities in it.
SEAL = ("--containall", "--no-home", "--no-privs", "--pwd", "/tmp")
OPENS_THE_SEAL = re.compile(r"(APPTAINERENV|SINGULARITYENV)_[A-Za-z0-9_]+|(APPTAINER|SINGULARITY)_BIND(PATH)?")
EXIT_KILLED = 137
EXIT_APPTAINER_ERROR = 255  # apptainer could not start the container; spac-repro never exits with it


def executable() -> str:
    """The name of the command: apptainer or singularity.

    Raises:
        UnfitEnvironmentError: neither is installed.
    """
    for name in ("apptainer", "singularity"):
        if shutil.which(name):
            return name
    raise UnfitEnvironmentError(
        "apptainer is not installed: there is no such command; on a cluster, try `module load apptainer`, otherwise install it"
    )


def inspect(reference: ImageReference) -> ImageIdentity:
    """Check the hash of a SIF file, and return it with the file's labels and size.

    The expected hash is that of the reference, or else of the file FILE.sha256 next to it, where there is one.

    Raises:
        UserError: there is no such file, it is not a SIF, or its hash is not the expected one.
        UnfitEnvironmentError: apptainer is not installed.
    """
    file = Path(reference.name)
    if not file.is_file():
        raise UserError(f"there is no file {file}; build it with `spac-repro image build --runtime apptainer`, or copy it here")
    sha256 = files.sha256_file(file)
    hash_file = file.with_name(f"{file.name}.sha256")
    expected = reference.sha256 or (" ".join(hash_file.read_text(encoding="utf-8").split()[:1]) if hash_file.is_file() else sha256)
    if sha256 != expected:
        expectation = f"you gave {expected}" if reference.sha256 else f"{hash_file} says {expected or 'nothing'}"
        raise UserError(f"{file} was changed or damaged: its hash is {sha256}, and {expectation}; copy or build it again")
    done = subprocess.run([executable(), "inspect", "--json", "--labels", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{file} is not a SIF that apptainer can read: {_last_line(done.stderr)}")
    labels = json.loads(done.stdout)["data"]["attributes"]["labels"]
    return ImageIdentity(f"sif:sha256:{sha256}", {str(name): str(value) for name, value in labels.items()}, file.stat().st_size)


def read_file(reference: ImageReference, name: str) -> bytes:
    """Read a file of the image's METADATA_FOLDER.

    Raises:
        UserError: the image has no such file, or is not an image.
        UnfitEnvironmentError: apptainer is not installed.
    """
    done = subprocess.run(
        [executable(), "exec", "--containall", reference.name, "cat", f"{METADATA_FOLDER}/{name}"], capture_output=True, check=False
    )
    if done.returncode:
        raise UserError(f"cannot read {name} from {reference}: {_last_line(done.stderr.decode())}")
    return done.stdout


def run(reference: ImageReference, command: ContainerCommand, options: ContainerOptions) -> int:
    """Run a command in a container.

    The container's root file system is read-only, and it sees only those paths of the host that the command reads and writes.
    It has no network unless `options` allow it, and runs as the calling user.

    Returns:
        The command's exit status.

    Raises:
        UnfitEnvironmentError: apptainer cannot start the container (no user namespaces, no permission), or it was killed.
        UserError: there is no such file, its hash is not the expected one, it holds another version, or a path cannot be mounted.
    """
    identity = inspect(reference)
    check_version(reference, identity, other_version=options.other_version)
    with in_container.output_folders(command), tempfile.TemporaryDirectory(prefix="spac-repro-") as scratch:
        flags = [*SEAL, "--workdir", scratch]
        flags += [] if options.network else ["--net", "--network", "none"]
        flags += ["--memory", options.memory] if options.memory else []
        flags += _gpus(identity)
        for path, writable in in_container.mounts(command, options):
            flags += ["--mount", mount_option(path, writable)]
        for name, value in in_container.environment_variables(identity.digest, options, caches="/tmp").items():
            flags += ["--env", f"{name}={value}"]
        status = _wait_for_exit([executable(), "--silent", "exec", *flags, reference.name, "spac-repro", *command.arguments])
        # Exit status 1 is ambiguous: apptainer may not create a user namespace, or the run's numbers disagree.
        if status in (EXIT_APPTAINER_ERROR, 1) and (problem := _explain_failure(reference, flags, status)):
            raise UnfitEnvironmentError(problem)
    if status in (EXIT_KILLED, -signal.SIGKILL):
        raise in_container.killed_error("the run in the image", options, out_of_memory=False)
    return status


def _gpus(identity: ImageIdentity) -> list[str]:
    return ["--nv"] if identity.has_cuda and NVIDIA_DEVICE.exists() else []


def mount_option(path: Path, writable: bool) -> str:
    """The value of apptainer's `--mount`: comma-separated, with quotes around a path that contains a comma."""
    fields = ["type=bind", f"source={path}", f"destination={path}", *([] if writable else ["ro"])]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _wait_for_exit(command: list[str]) -> int:
    """Run a command in a session of its own, so that only we forward an interruption to it; a second interruption kills it."""
    process = subprocess.Popen(command, start_new_session=True, env=_environment())
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def _environment() -> dict[str, str]:
    """The variables of this process, without those by which Apptainer would bring mounts and variables into the container."""
    return {name: value for name, value in os.environ.items() if not OPENS_THE_SEAL.fullmatch(name)}


def _explain_failure(reference: ImageReference, flags: list[str], status: int) -> str:
    """Start the same container with `true`, and say why apptainer cannot; "" if it can and `status` was the command's own."""
    done = subprocess.run(
        [executable(), "exec", *flags, reference.name, "true"], capture_output=True, text=True, env=_environment()
    )
    message = done.stderr if done.returncode else ""
    if "namespace" in message:
        return (
            f"apptainer cannot run here: {_last_line(message)}; it needs user namespaces, or a setuid installation "
            "(package apptainer-suid); ask your administrator for either"
        )
    if "cgroups" in message:
        return f"apptainer cannot limit memory here: {_last_line(message)}; omit --memory, or let the scheduler limit it"
    if not message and status != EXIT_APPTAINER_ERROR:
        return ""
    return f"apptainer could not run the command: {_last_line(message) or f'it exited with status {status}'}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("FATAL:").strip() if lines else ""
