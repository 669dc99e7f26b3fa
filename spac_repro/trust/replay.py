"""Repeat a run from its manifest alone: the run it describes, what of it cannot be matched here, and the comparison at the end."""

from collections.abc import Callable
from pathlib import Path

from spac_repro import methods
from spac_repro.documents.source import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.recipe import Recipe, Run
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest
from spac_repro.trust.comparison import Comparison, Difference, compare, differences
from spac_repro.trust.effects import Sort


def run_of(folder: Path) -> Run:
    """The run that a manifest describes: its settings, its method, its seed.

    Raises:
        UserError: not a run folder, or settings that this version does not have or that were changed by hand.
    """
    there = RunFolder.open(folder)
    its, path = there.manifest, there.manifest_file
    settings = dict(its.settings)
    method = settings.pop("method", None)
    if method not in methods.names():
        raise UserError(f"{path}: unknown method {method!r}; it was made by another version of spac-repro")
    # The other methods' settings are not in the manifest, and no part of the run.
    remedy = "it was made by another version of spac-repro"
    tree = {**settings, "summary": f"repeats {its.recipe}"}
    recipe = validate(Recipe, tree, NamedSource(str(path), ("settings",)), remedy=remedy)
    run = Run(recipe, method, its.seed, its.provenance)
    if run.settings_sha256 != its.settings_sha256:
        raise UserError(f"{path}: the settings are not those whose digest stands beside them; the file was changed by hand")
    return run


def check(folder: Path, *, allowed: bool, say: Callable[[str], None]) -> Callable[[Manifest], None]:
    """What to do with the manifest of the repetition before anything is written.

    It says what cannot be matched here, and raises UserError for other inputs and, unless `allowed`, UnfitEnvironmentError for an
    environment that may change bits.
    """

    def inspect(here: Manifest) -> None:
        found = [each for each in differences(RunFolder.open(folder).manifest, here) if each.key != "segments"]
        for each in found:
            if each.key.startswith("inputs.") and each.effect.sort is Sort.DESIGN:
                raise UserError(f"not the inputs of {folder}: {_line(each)}; give the same preferences and questions")
        unmatched = [each for each in found if each.effect.sort is not Sort.NOTHING]
        for each in unmatched:
            say(f"cannot be matched here: {_line(each)} ({each.effect.sort.value}: {each.effect.size})")
        if unmatched and not allowed:
            more = f", and {len(unmatched) - 1} more" if len(unmatched) > 1 else ""
            raise UnfitEnvironmentError(
                f"{folder} was made in another environment: {_line(unmatched[0])}{more}; "
                "go on without a claim to equal bits with --allow-changed-environment"
            )

    return inspect


def conclude(folder: Path, again: Path) -> tuple[Comparison, bool]:
    """The comparison of a run with its repetition, and whether it stands: nothing differs, or not more than what differs allows."""
    found = compare(folder, again)
    causes = [each for each in found.differences if each.effect.sort is not Sort.NOTHING]
    parted = found.walk.training or found.walk.scores
    return found, not (parted and not causes) and found.exit_code == 0


def _line(difference: Difference) -> str:
    return f"{difference.key} is {difference.a!r} there and {difference.b!r} here"
