"""`spac-repro` itself: the commands and groups put together."""

from typing import Annotated

import typer

import spac_repro
from spac_repro.cli import image, recipes, sweep
from spac_repro.cli.cluster import doctor, prefetch
from spac_repro.cli.evaluate import evaluate
from spac_repro.cli.publish import report
from spac_repro.cli.theory import theory
from spac_repro.cli.train import train
from spac_repro.cli.trust import compare, verify

app = typer.Typer(
    name="spac-repro",
    help="Repeat SPAC (Self-Play with Adversarial Critic, arXiv 2406.04274): train, evaluate, verify.\n\n"
    "Start with `spac-repro train`: minutes on a laptop, nothing downloaded.\n\n"
    "Exit codes: 0 done, and verified where expected results apply; 1 ran, and the numbers disagree; 2 wrong usage or bad input; "
    "3 this environment cannot do it; 130 interrupted, and the same command goes on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (train, evaluate, verify, compare, report, theory, prefetch, doctor):
    app.command()(_command)
app.add_typer(recipes.app, name="recipes")
app.add_typer(sweep.app, name="sweep")
app.add_typer(image.app, name="image")


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"spac-repro {spac_repro.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What stands before the command."""
