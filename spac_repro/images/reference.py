"""Which image is meant, and what is known of it."""

import re
from dataclasses import dataclass
from pathlib import Path

import spac_repro
from spac_repro.errors import UserError

ENGINES = ("docker", "podman", "apptainer")
VARIANTS = ("cpu", "cuda")
LABEL = "org.opencontainers.image."
VARIANT = "org.spac-repro.variant"
SHARE = "/opt/spac-repro/share/spac-repro"  # in the image: bill of materials, licences
NVIDIA = Path("/dev/nvidiactl")  # stands where a driver is loaded


@dataclass(frozen=True)
class Reference:
    """An image as a user names it: `docker:IMAGE`, `podman:IMAGE` or `apptainer:FILE.sif[@sha256:HEX]`."""

    engine: str
    name: str  # an image's name or ID; a SIF file
    sha256: str | None = None  # what the SIF has to hash to

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"


@dataclass(frozen=True)
class Identity:
    """An image that was found: what it is, whatever it is called.

    Attributes:
        digest: `oci:sha256:…` (the ID of a Docker or Podman image) or `sif:sha256:…` (the hash of a file). Goes into the manifest.
        labels: as the image states them.
        size: in bytes.
    """

    digest: str
    labels: dict[str, str]
    size: int

    @property
    def version(self) -> str | None:
        return self.labels.get(LABEL + "version")

    @property
    def has_cuda(self) -> bool:
        return self.labels.get(VARIANT) == "cuda"


def parse(text: str) -> Reference:
    """Read `ENGINE:NAME`.

    Raises:
        UserError: no engine that is known.
    """
    engine, _, name = text.partition(":")
    if engine not in ENGINES or not name:
        raise UserError(f"{text!r} names no image; write docker:IMAGE, podman:IMAGE or apptainer:FILE.sif")
    if engine == "apptainer" and (pinned := re.fullmatch(r"(.+)@sha256:([0-9a-f]{64})", name)):
        return Reference(engine, pinned[1], pinned[2])
    return Reference(engine, name)


def check_version(reference: Reference, identity: Identity, *, other_version: bool) -> None:
    """Refuse an image that is not of this package, or of another version of it unless that is wanted."""
    if identity.version is None or VARIANT not in identity.labels:
        raise UserError(f"{reference} is not an image of spac-repro; build one with `spac-repro image build`")
    if identity.version != spac_repro.__version__ and not other_version:
        raise UserError(
            f"{reference} holds spac-repro {identity.version}, and this is {spac_repro.__version__}; "
            "build it anew with `spac-repro image build`, or take it all the same with --other-version"
        )
