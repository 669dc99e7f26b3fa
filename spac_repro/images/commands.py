"""`spac-repro image …`, and what `spac-repro train --in …` does: parses, calls one function, prints."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from spac_repro.errors import UserError

app = typer.Typer(help="The pinned image: build it, look at it, and work in it.", no_args_is_help=True)

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="docker:IMAGE, podman:IMAGE or apptainer:FILE.sif[@sha256:HEX].")]
Inside = Annotated[
    str | None,
    typer.Option("--in", metavar="IMAGE", help="Do it inside an image: docker:IMAGE, podman:IMAGE or apptainer:FILE.sif."),
]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="With --in: at most so much memory, e.g. 8g.")]
Network = Annotated[bool, typer.Option("--network", help="With --in: allow the network; by default there is none.")]
OtherVersion = Annotated[
    bool, typer.Option("--other-version", help="With --in: take an image of another version of spac-repro all the same.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

OUTSIDE = ("inside", "memory", "network", "other_version", "out")  # of a command's parameters, those that are not passed on


def inside(
    name: Sequence[str],
    context: typer.Context,
    image: str,
    *,
    out: Path,
    memory: str | None,
    network: bool,
    other_version: bool,
) -> int:
    """Carry out a command that was parsed (its name, its context) inside an image, and return its exit status.

    Raises:
        UserError: bad input: the image, its version, a path.
        UnfitEnvironmentError: no engine, or the command was killed there.
    """
    from spac_repro.images import command, engine, sif
    from spac_repro.images.reference import parse

    reference = parse(image)
    if memory is not None and not re.fullmatch(r"[1-9][0-9]*[bkmg]?", memory):
        raise UserError(f"--memory {memory} is no size; write a whole number and b, k, m or g, e.g. 8g")
    limits = command.Limits(memory, network, other_version)
    given = command.command(name, context.command.params, context.params, out=out, leave=OUTSIDE)
    return sif.run(reference, given, limits) if reference.engine == "apptainer" else engine.run(reference, given, limits)


@app.command()
def build(
    engine: Annotated[str, typer.Option(help="docker, podman or apptainer.")] = "docker",
    variant: Annotated[str, typer.Option(help="cpu, or cuda for NVIDIA GPUs.")] = "cpu",
    tag: Annotated[str | None, typer.Option(help="Name of the image.", show_default="spac-repro:VERSION-VARIANT")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Another base: any image with Python 3.11. For apptainer with its kind, e.g. docker-archive:image.tar.",
            show_default="python:3.11-slim-bookworm, by digest",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With apptainer: the file.", show_default="spac-repro-VERSION-VARIANT.sif")
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="URL", help="Where the source is published, for the image's label.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the image from this checkout: packages are fetched first, by hash; the build itself has no network.

    Built twice by Podman from one commit and one base, it has the same ID.
    """
    from spac_repro.images import building
    from spac_repro.images.reference import ENGINES

    if engine not in ENGINES:
        raise UserError(f"--engine {engine} is not known; take {', '.join(ENGINES)}")
    if variant not in building.VARIANTS:
        raise UserError(f"--variant {variant} is not known; take {', '.join(building.VARIANTS)}")
    name = building.build(engine, variant, tag=tag, base=base, out=out, source=source, say=_say)
    _show(name, as_json)


@app.command()
def inspect(
    image: Image,
    sbom: Annotated[Path | None, typer.Option(help="Write the bill of materials (CycloneDX, JSON) to this file.")] = None,
    licences: Annotated[bool, typer.Option("--licences", help="Print the licence of every Python package in it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what an image is: its identity, version and commit; on request its bill of materials and licences."""
    from spac_repro.runs import files

    if sbom is not None:
        bill = _read(image, "sbom.cdx.json")
        try:
            files.write_bytes(sbom, bill)
        except OSError as error:
            raise UserError(f"cannot write {sbom}: {error.strerror}; choose another file with --sbom") from None
    if licences:
        print(_read(image, "licences.md").decode(), end="")
    else:
        _show(image, as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    image: Image,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="A command of spac-repro and its options.")],
    memory: Memory = None,
    network: Network = False,
    other_version: OtherVersion = False,
) -> None:
    """Carry out any command of spac-repro inside an image, e.g. `image run docker:IMAGE evaluate MODEL --suite mini`.

    What the command names is mounted, read-only; what it writes goes to its --out, or below runs/. `train` has --in for this.
    """
    from typer.main import get_command

    from spac_repro import cli

    if words[0] == "train":
        raise UserError("training goes the other way round: `spac-repro train --in IMAGE …`, which mounts the run's own folder")
    chosen: Any = get_command(cli.app)
    name, rest = [], list(words)
    while hasattr(chosen, "commands"):  # groups, down to the command
        if not rest or rest[0] not in chosen.commands:
            raise UserError(f"{' '.join(words)!r} is no command of spac-repro; see `spac-repro --help`")
        name.append(rest.pop(0))
        chosen = chosen.commands[name[-1]]
    context = chosen.make_context(" ".join(name), rest)
    out = context.params.get("out") or Path("runs")
    raise typer.Exit(inside(name, context, image, out=out, memory=memory, network=network, other_version=other_version))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _read(image: str, name: str) -> bytes:
    from spac_repro.images import engine, sif
    from spac_repro.images.reference import parse

    reference = parse(image)
    return sif.read(reference, name) if reference.engine == "apptainer" else engine.read(reference, name)


def _show(image: str, as_json: bool) -> None:
    from spac_repro.images import engine, sif
    from spac_repro.images.reference import LABEL, VARIANT, parse

    reference = parse(image)
    identity = sif.inspect(reference) if reference.engine == "apptainer" else engine.inspect(reference)
    rows: Sequence[tuple[str, Any]] = (
        ("image", image),
        ("identity", identity.digest),
        ("version", identity.version),
        ("commit", identity.labels.get(LABEL + "revision")),
        ("variant", identity.labels.get(VARIANT)),
        ("bytes", identity.size),
    )
    if as_json:
        print(json.dumps(dict(rows)))
        return
    for name, value in rows:
        print(f"{name:<9} {value}")
