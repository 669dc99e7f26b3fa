"""`spac-repro image …`: the pinned image."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spac_repro.cli import in_image
from spac_repro.cli.choices import Engine, Variant, one_of
from spac_repro.cli.options import AsJson, Memory, Network, OtherVersion
from spac_repro.errors import UserError
from spac_repro.images.reference import ENGINES, LABEL, VARIANT, VARIANTS, parse

app = typer.Typer(help="The pinned image: build it, look at it, and work in it.", no_args_is_help=True)

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="docker:IMAGE, podman:IMAGE or apptainer:FILE.sif[@sha256:HEX].")]


@app.command()
def build(
    engine: Annotated[Engine, typer.Option(parser=one_of(ENGINES), help="What builds it.")] = "docker",
    variant: Annotated[Variant, typer.Option(parser=one_of(VARIANTS), help="cuda is for NVIDIA GPUs.")] = "cpu",
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
    from spac_repro.images import access
    from spac_repro.runs import files

    if sbom is not None:
        bill = access.read(parse(image), "sbom.cdx.json")
        try:
            files.write_bytes(sbom, bill)
        except OSError as error:
            raise UserError(f"cannot write {sbom}: {error.strerror}; choose another file with --sbom") from None
    if licences:
        print(access.read(parse(image), "licences.md").decode(), end="")
    else:
        _show(image, as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    context: typer.Context,
    image: Image,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="A command of spac-repro and its options.")],
    memory: Memory = None,
    network: Network = False,
    other_version: OtherVersion = False,
) -> None:
    """Carry out any command of spac-repro inside an image, e.g. `image run docker:IMAGE evaluate MODEL --suite mini`.

    What the command names is mounted, read-only; what it writes goes to its --out, or below runs/. `train` has --in for this.
    """
    if words[0] == "train":
        raise UserError("training goes the other way round: `spac-repro train --in IMAGE …`, which mounts the run's own folder")
    name, parsed = _parse(context.find_root(), words)
    limits = in_image.limits(memory, network, other_version)
    raise typer.Exit(in_image.carry_out(name, parsed, image, limits, out=parsed.params.get("out") or Path("runs")))


def _parse(root: Any, words: list[str]) -> tuple[list[str], typer.Context]:
    """The name of the command that the words call, and its context, made below that of `spac-repro` itself."""
    chosen, name, rest = root.command, list[str](), list(words)
    while hasattr(chosen, "commands"):  # groups, down to the command
        if not rest or rest[0] not in chosen.commands:
            raise UserError(f"{' '.join(words)!r} is no command of spac-repro; see `spac-repro --help`")
        name.append(rest.pop(0))
        chosen = chosen.commands[name[-1]]
    return name, chosen.make_context(" ".join(name), rest, parent=root)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(image: str, as_json: bool) -> None:
    from spac_repro.images import access

    identity = access.inspect(parse(image))
    rows: dict[str, Any] = {
        "image": image,
        "identity": identity.digest,
        "version": identity.version,
        "commit": identity.labels.get(LABEL + "revision"),
        "variant": identity.labels.get(VARIANT),
        "bytes": identity.size,
    }
    if as_json:
        print(json.dumps(rows))
        return
    for name, value in rows.items():
        print(f"{name:<9} {value}")
