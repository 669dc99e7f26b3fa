"""What can be done with an image, by the runtime that its reference names: run a command, read a file, inspect."""

from spac_repro.images import apptainer, runtime
from spac_repro.images.command import ContainerCommand, ContainerOptions
from spac_repro.images.reference import ImageIdentity, ImageReference


def run(image: ImageReference, command: ContainerCommand, options: ContainerOptions) -> int:
    """Run a command in a container of this image.

    Returns:
        The command's exit status.

    Raises:
        UserError: there is no such image, it holds another version, or a path cannot be mounted.
        UnfitEnvironmentError: the runtime does not work here, or the container was killed.
    """
    return apptainer.run(image, command, options) if image.runtime == "apptainer" else runtime.run(image, command, options)


def read_file(image: ImageReference, name: str) -> bytes:
    """Read a file of the image's `reference.METADATA_FOLDER`: the bill of materials or the licences.

    Raises:
        UserError: there is no such image, or no such file in it.
        UnfitEnvironmentError: the runtime does not work here.
    """
    return apptainer.read_file(image, name) if image.runtime == "apptainer" else runtime.read_file(image, name)


def inspect(image: ImageReference) -> ImageIdentity:
    """Return the image's hash, labels and size.

    Raises:
        UserError: there is no such image.
        UnfitEnvironmentError: the runtime does not work here.
    """
    return apptainer.inspect(image) if image.runtime == "apptainer" else runtime.inspect(image)
