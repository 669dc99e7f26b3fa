"""`spac-repro image …`: build and inspect the pinned container image, and run commands in it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spac_repro.cli import in_image
from spac_repro.cli.choices import Runtime, Variant, one_of
from spac_repro.cli.options import AsJson, Memory, Network, OtherVersion
from spac_repro.cli.output_path import outside_runs
from spac_repro.errors import UserError
from spac_repro.images.reference import OCI_LABEL, RUNTIMES, VARIANT_LABEL, VARIANTS, parse_reference

app = typer.Typer(
    help="Build and inspect the pinned container image, and run commands in it. docs/images.md has the details.",
    no_args_is_help=True,
)

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Image: docker:IMAGE, podman:IMAGE or apptainer:FILE.sif[@sha256:HEX].")
]


@app.command()
def build(
    runtime: Annotated[Runtime, typer.Option(parser=one_of(RUNTIMES), help="Container runtime that builds the image.")] = "docker",
    variant: Annotated[Variant, typer.Option(parser=one_of(VARIANTS), help="Build of PyTorch: cuda is for NVIDIA GPUs.")] = "cpu",
    tag: Annotated[
        str | None, typer.Option(help="Docker, Podman: name of the image.", show_default="spac-repro:VERSION-VARIANT")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base image, instead of the pinned one: any image with Python 3.11. "
            "For apptainer, prefix its kind, e.g. docker-archive:image.tar.",
            show_default="python:3.11-slim-bookworm, by digest",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=outside_runs, help="Apptainer: the SIF file to write.", show_default="spac-repro-VERSION-VARIANT.sif"
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="URL", help="URL of the source code, for the image's label.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the image from this checkout.

    Packages are downloaded first and checked by hash; the build itself has no network.
    Podman builds images with equal IDs from one commit and one base.
    """
    from spac_repro.images import building

    name = building.build(runtime, variant, tag=tag, base=base, out=out, source=source, log=_log)
    _print_identity(name, as_json)


@app.command()
def inspect(
    image: Image,
    sbom: Annotated[
        Path | None, typer.Option(callback=outside_runs, help="Write the image's bill of materials (CycloneDX, JSON) to this file.")
    ] = None,
    licences: Annotated[bool, typer.Option("--licences", help="Print the licence of every Python package in the image.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show an image's hash, version, commit and size; on request its bill of materials and licences."""
    from spac_repro.images import dispatch
    from spac_repro.runs import files

    if sbom is not None:
        bill = dispatch.read_file(parse_reference(image), "sbom.cdx.json")
        try:
            files.write_bytes(sbom, bill)
        except OSError as error:
            raise UserError(f"cannot write {sbom}: {error.strerror}; choose another file") from None
    if licences:
        print(dispatch.read_file(parse_reference(image), "licences.md").decode(), end="")
    else:
        _print_identity(image, as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    context: typer.Context,
    image: Image,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="Command of spac-repro, with its options.")],
    memory: Memory = None,
    network: Network = False,
    other_version: OtherVersion = False,
) -> None:
    """Run any command of spac-repro in a container, e.g. `image run docker:IMAGE evaluate MODEL --suite mini`.

    The container sees the files that the command names, read-only. It writes to the command's --out, or to runs/.
    For training use `spac-repro train --in IMAGE`.
    """
    if words[0] == "train":
        raise UserError("`image run` does not train; use `spac-repro train --in IMAGE …`, which mounts the run's own folder")
    name, parsed = _parse(context.find_root(), words)
    options = in_image.container_options(memory, network, other_version)
    raise typer.Exit(in_image.run_in_image(name, parsed, image, options, out=parsed.params.get("out") or Path("runs")))


def _parse(root: Any, words: list[str]) -> tuple[list[str], typer.Context]:
    """Parse the words as a command line of spac-repro, and return the command's name and context."""
    command, name, rest = root.command, list[str](), list(words)
    while hasattr(command, "commands"):  # a group
        if not rest or rest[0] not in command.commands:
            raise UserError(f"{' '.join(words)!r} is no command of spac-repro; see `spac-repro --help`")
        name.append(rest.pop(0))
        command = command.commands[name[-1]]
    return name, command.make_context(" ".join(name), rest, parent=root)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_identity(image: str, as_json: bool) -> None:
    from spac_repro.images import dispatch

    identity = dispatch.inspect(parse_reference(image))
    rows: dict[str, Any] = {
        "image": image,
        "identity": identity.digest,
        "version": identity.version,
        "commit": identity.labels.get(OCI_LABEL + "revision"),
        "variant": identity.labels.get(VARIANT_LABEL),
        "bytes": identity.size,
    }
    if as_json:
        print(json.dumps(rows))
        return
    for name, value in rows.items():
        print(f"{name:<9} {value}")
