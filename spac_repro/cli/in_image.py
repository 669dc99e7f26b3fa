"""`train --in IMAGE` and `image run IMAGE`: run a command, parsed here, in a container of that image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from spac_repro.images.command import ContainerOptions

HOST_PARAMETERS = ("in_image", "memory", "network", "other_version", "out")  # parameters that are not passed into the container


def container_options(memory: str | None = None, network: bool = False, other_version: bool = False) -> "ContainerOptions":
    """Collect the options about a container.

    Raises:
        UserError: `memory` is not a size.
    """
    from spac_repro.images.command import ContainerOptions

    return ContainerOptions(memory, network, other_version)


def run_in_image(name: Sequence[str], context: typer.Context, image: str, options: "ContainerOptions", *, out: Path) -> int:
    """Run a parsed command in a container.

    Args:
        name: the command, e.g. ("recipes", "show").
        context: the command's context, with the values of its parameters.
        image: reference of the image, e.g. docker:IMAGE.
        options: how the container is started.
        out: the folder that the command writes to.

    Returns:
        The command's exit status.

    Raises:
        UserError: there is no such image, it holds another version, or a path does not exist.
        UnfitEnvironmentError: the container runtime does not work here, or the container was killed.
    """
    from spac_repro.images import dispatch
    from spac_repro.images.command import container_command
    from spac_repro.images.reference import parse_reference

    reference = parse_reference(image)
    command = container_command(name, context.command.params, context.params, out=out, exclude=HOST_PARAMETERS)
    return dispatch.run(reference, command, options)
