"""Options that name what a command writes. It never lies in a run folder, which holds what its run wrote and nothing else."""

from pathlib import Path

import typer

from spac_repro.errors import UserError


def outside_runs(context: typer.Context, parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Refuse a path that is a run folder or lies in one: a callback of an option.

    Raises:
        UserError: the path is in a run folder. Nothing was written yet.
    """
    return _checked(context, parameter, value, value)


def new_run_folder(context: typer.Context, parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Refuse a run folder that lies in another one: a callback of an option. The run's own folder may exist, to go on with it.

    Raises:
        UserError: the path is in another run's folder.
    """
    return _checked(context, parameter, value, value.absolute().parent if value else None)


def _checked(context: typer.Context, parameter: typer.CallbackParam, value: Path | None, place: Path | None) -> Path | None:
    if place is not None and not context.resilient_parsing:  # it is true while the shell completes a word
        from spac_repro.runs.folder import enclosing_run

        if run := enclosing_run(place):
            raise UserError(
                f"{parameter.opts[0]} {value}: {run} is a run folder, which holds only what its run wrote; name a place outside"
            )
    return value
