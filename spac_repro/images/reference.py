"""Which image a user names, and what is known about it once it is found."""

import re
from dataclasses import dataclass
from pathlib import Path

import spac_repro
from spac_repro.errors import UserError

RUNTIMES = ("docker", "podman", "apptainer")
VARIANTS = ("cpu", "cuda")
OCI_LABEL = "org.opencontainers.image."  # prefix of the standard labels
VARIANT_LABEL = "org.spac-repro.variant"
METADATA_FOLDER = "/opt/spac-repro/share/spac-repro"  # in the image: bill of materials, licences
NVIDIA_DEVICE = Path("/dev/nvidiactl")  # exists where the NVIDIA driver is loaded


@dataclass(frozen=True)
class ImageReference:
    """An image as a user names it: `docker:IMAGE`, `podman:IMAGE` or `apptainer:FILE.sif[@sha256:HEX]`."""

    runtime: str
    name: str  # an image's name or ID; a SIF file
    sha256: str | None = None  # the hash that the user expects of the SIF file

    def __str__(self) -> str:
        return f"{self.runtime}:{self.name}"


@dataclass(frozen=True)
class ImageIdentity:
    """An image that was found, identified by its content.

    Attributes:
        digest: `oci:sha256:…` (the ID of a Docker or Podman image) or `sif:sha256:…` (the hash of a file). Goes into the manifest.
        labels: the image's labels.
        size: in bytes.
    """

    digest: str
    labels: dict[str, str]
    size: int

    @property
    def version(self) -> str | None:
        """The version of spac-repro in the image."""
        return self.labels.get(OCI_LABEL + "version")

    @property
    def has_cuda(self) -> bool:
        """Whether the image holds the CUDA build of PyTorch."""
        return self.labels.get(VARIANT_LABEL) == "cuda"


def parse_reference(text: str) -> ImageReference:
    """Parse `RUNTIME:NAME`.

    Raises:
        UserError: the runtime is unknown, or the name is missing.
    """
    runtime, _, name = text.partition(":")
    if runtime not in RUNTIMES or not name:
        raise UserError(f"{text!r} names no image; write docker:IMAGE, podman:IMAGE or apptainer:FILE.sif")
    if runtime == "apptainer" and (pinned := re.fullmatch(r"(.+)@sha256:([0-9a-f]{64})", name)):
        return ImageReference(runtime, pinned[1], pinned[2])
    return ImageReference(runtime, name)


def check_version(reference: ImageReference, identity: ImageIdentity, *, other_version: bool) -> None:
    """Check that an image holds this version of spac-repro.

    Args:
        reference: the image as the user named it, for error messages.
        identity: the image that was found.
        other_version: accept an image with another version.

    Raises:
        UserError: it is not an image of spac-repro, or holds another version.
    """
    if identity.version is None or VARIANT_LABEL not in identity.labels:
        raise UserError(f"{reference} is not an image of spac-repro; build one with `spac-repro image build`")
    if identity.version != spac_repro.__version__ and not other_version:
        raise UserError(
            f"{reference} holds spac-repro {identity.version}, and this is {spac_repro.__version__}; "
            "rebuild it with `spac-repro image build`, or accept it with --other-version"
        )
