"""An image, whichever engine holds it: carry out a command in it, read a file of it, say what it is."""

from spac_repro.images import engine, sif
from spac_repro.images.command import Command, Limits
from spac_repro.images.reference import Identity, Reference


def run(image: Reference, command: Command, limits: Limits) -> int:
    """Carry out a command inside an image, and return its exit status.

    Raises:
        UserError: no such image, one of another version, or a path that cannot be mounted.
        UnfitEnvironmentError: no engine, or the command was killed there.
    """
    return sif.run(image, command, limits) if image.engine == "apptainer" else engine.run(image, command, limits)


def read(image: Reference, name: str) -> bytes:
    """A file below `reference.SHARE` in an image: the bill of materials, the licences."""
    return sif.read(image, name) if image.engine == "apptainer" else engine.read(image, name)


def inspect(image: Reference) -> Identity:
    """What an image is."""
    return sif.inspect(image) if image.engine == "apptainer" else engine.inspect(image)
