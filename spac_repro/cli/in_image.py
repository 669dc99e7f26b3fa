"""`train --in IMAGE` and `image run IMAGE`: a command line that was parsed here is carried out inside an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from spac_repro.images.command import Limits

OUTSIDE = ("inside", "memory", "network", "other_version", "out")  # of a command's parameters, those that are not passed on


def limits(memory: str | None = None, network: bool = False, other_version: bool = False) -> "Limits":
    """What the options about an image say.

    Raises:
        UserError: the memory is no size.
    """
    from spac_repro.images.command import Limits

    return Limits(memory, network, other_version)


def carry_out(name: Sequence[str], context: typer.Context, image: str, limits: "Limits", *, out: Path) -> int:
    """Carry out a command that was parsed (its name, its context) inside an image, and return its exit status.

    Raises:
        UserError: bad input: the image, its version, a path.
        UnfitEnvironmentError: no engine, or the command was killed there.
    """
    from spac_repro.images import access, command
    from spac_repro.images.reference import parse

    reference = parse(image)
    given = command.command(name, context.command.params, context.params, out=out, leave=OUTSIDE)
    return access.run(reference, given, limits)
