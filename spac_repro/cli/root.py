"""`spac-repro` itself: all commands and groups of commands."""

from typing import Annotated

import typer

import spac_repro
from spac_repro.cli import expected, image, recipes, sweep
from spac_repro.cli.archive import archive
from spac_repro.cli.data import data
from spac_repro.cli.evaluate import evaluate
from spac_repro.cli.export import export
from spac_repro.cli.prepare import doctor, prefetch
from spac_repro.cli.rehearse import rehearse
from spac_repro.cli.report import report
from spac_repro.cli.returned import returned
from spac_repro.cli.theory import theory
from spac_repro.cli.train import train
from spac_repro.cli.trust import compare, verify

app = typer.Typer(
    name="spac-repro",
    help="Reproduce SPAC (Self-Play with Adversarial Critic, arXiv 2406.04274): train, evaluate and verify.\n\n"
    "Start with `spac-repro train`. It takes minutes on a laptop and downloads nothing.\n\n"
    "Exit codes: 0 success, and verified where expected results apply; 1 finished, but the numbers disagree; "
    "2 wrong usage or bad input, or (verify) unverified; 3 this machine or environment cannot do it; "
    "70 an error of spac-repro itself; "
    "130 interrupted: repeat the command; `train` resumes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (train, evaluate, verify, compare, report, returned, export, archive, theory, data, prefetch, doctor, rehearse):
    app.command()(_command)
app.add_typer(recipes.app, name="recipes")
app.add_typer(sweep.app, name="sweep")
app.add_typer(image.app, name="image")
app.add_typer(expected.app, name="expected")


def _print_version(requested: bool) -> None:
    if requested:
        print(f"spac-repro {spac_repro.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Handle the options that come before the command."""
