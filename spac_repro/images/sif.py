"""Apptainer, for clusters without a container engine: a SIF file, run by an ordinary user."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import command as inner
from spac_repro.images.command import Command, Limits
from spac_repro.images.reference import NVIDIA, SHARE, Identity, Reference, check_version
from spac_repro.runs import files

KILLED = 137
APPTAINERS_OWN = 255  # how it ends where it cannot start; spac-repro never ends so


def program() -> str:
    """The apptainer command.

    Raises:
        UnfitEnvironmentError: it is not installed.
    """
    for name in ("apptainer", "singularity"):
        if shutil.which(name):
            return name
    raise UnfitEnvironmentError(
        "apptainer is not installed: there is no such command; on a cluster, try `module load apptainer`, else install it"
    )


def inspect(reference: Reference) -> Identity:
    """What a SIF is, after its hash was held against what it should be.

    Raises:
        UserError: no such file, not a SIF, or not the one that was meant.
    """
    file = Path(reference.name)
    if not file.is_file():
        raise UserError(f"there is no file {file}; build it with `spac-repro image build --engine apptainer`, or copy it here")
    found = files.sha256_file(file)
    beside = file.with_name(f"{file.name}.sha256")
    expected = reference.sha256 or (" ".join(beside.read_text().split()[:1]) if beside.is_file() else found)
    if found != expected:
        says = f"you gave {expected}" if reference.sha256 else f"{beside} says {expected or 'nothing'}"
        raise UserError(f"{file} was changed or damaged: its hash is {found}, and {says}; copy it anew, or build it anew")
    done = subprocess.run([program(), "inspect", "--json", "--labels", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{file} is not a SIF that apptainer can read: {_last_line(done.stderr)}")
    labels = json.loads(done.stdout)["data"]["attributes"]["labels"]
    return Identity(f"sif:sha256:{found}", {str(name): str(value) for name, value in labels.items()}, file.stat().st_size)


def read(reference: Reference, name: str) -> bytes:
    """A file that the image says about itself: the bill of materials, the licences."""
    done = subprocess.run(
        [program(), "exec", "--containall", reference.name, "cat", f"{SHARE}/{name}"], capture_output=True, check=False
    )
    if done.returncode:
        raise UserError(f"{reference} gives no {name}: {_last_line(done.stderr.decode())}")
    return done.stdout


def run(reference: Reference, command: Command, limits: Limits) -> int:
    """Carry out a command in the image, and return its exit status.

    The image is read-only, nothing of the host is seen but what the command reads and writes, there is no network unless that is
    allowed, and the process is the caller.

    Raises:
        UnfitEnvironmentError: apptainer cannot start it (no user namespaces, no right), or it was killed.
        UserError: no such file, a changed one, an image of another version, a path that cannot be mounted.
    """
    identity = inspect(reference)
    check_version(reference, identity, other_version=limits.other_version)
    with inner.mounted(command), tempfile.TemporaryDirectory(prefix="spac-repro-") as scratch:
        options = ["--containall", "--no-home", "--workdir", scratch, "--pwd", "/tmp"]
        options += [] if limits.network else ["--net", "--network", "none"]
        options += ["--memory", limits.memory] if limits.memory else []
        options += _gpus(identity)
        for path, written in inner.mounts(command):
            options += ["--mount", _mount(path, written)]
        for name, value in inner.variables(identity.digest, limits).items():
            options += ["--env", f"{name}={value}"]
        status = _attend([program(), "--silent", "exec", *options, reference.name, "spac-repro", *command.arguments])
        # 1 is also what it ends with where it may not make a user namespace, and what a run ends with whose numbers disagree.
        if status in (APPTAINERS_OWN, 1) and (why := _why(reference, options, status)):
            raise UnfitEnvironmentError(why)
    if status in (KILLED, -signal.SIGKILL):
        raise inner.killed("the run in the image", limits, out_of_memory=False)
    return status


def _gpus(identity: Identity) -> list[str]:
    return ["--nv"] if identity.has_cuda and NVIDIA.exists() else []


def _mount(path: Path, written: bool) -> str:
    """A mount as apptainer reads it: comma-separated, quoted where a path has a comma of its own."""
    fields = ["type=bind", f"source={path}", f"destination={path}", *([] if written else ["ro"])]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _attend(words: list[str]) -> int:
    """Wait for a process that has a session of its own, so that an interruption reaches it once: from us. A second one kills it."""
    process = subprocess.Popen(words, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def _why(reference: Reference, options: list[str], status: int) -> str:
    """What apptainer says when it is asked for nothing but a start; "" where it starts, and the status was the command's own."""
    done = subprocess.run([program(), "exec", *options, reference.name, "true"], capture_output=True, text=True)
    said = done.stderr if done.returncode else ""
    if "namespace" in said:
        return (
            f"apptainer cannot run here: {_last_line(said)}; without user namespaces it has to be installed setuid root "
            "(package apptainer-suid), so ask the administrator for either"
        )
    if "cgroups" in said:
        return f"apptainer cannot limit memory here: {_last_line(said)}; leave --memory out, or have the scheduler limit it"
    if not said and status != APPTAINERS_OWN:
        return ""
    return f"apptainer could not carry the command out: {_last_line(said) or f'it ended with status {status}'}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("FATAL:").strip() if lines else ""
