"""Rerun a run from its manifest alone (`train --like`): read the run, check the environment, compare with the original."""

from collections.abc import Callable
from pathlib import Path

from spac_repro import methods
from spac_repro.documents.location import NamedSource
from spac_repro.documents.validation import validate
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.recipe import Recipe, Run
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest
from spac_repro.trust.comparison import Comparison, Difference, compare, differences
from spac_repro.trust.impact import Impact


def recorded_run(folder: Path, *, policy: Path | None = None) -> Run:
    """The run that a manifest records: its settings, its method, its seed.

    Args:
        folder: the run folder.
        policy: the model folder that it started from, whose path no manifest holds; None: it started from none.

    Raises:
        UserError: not a run folder, or settings that this version does not have, or that were changed by hand; or it started from
            a model folder and `policy` is None, or the other way round.
    """
    recorded = RunFolder.open(folder)
    manifest, path = recorded.manifest, recorded.manifest_file
    settings = dict(manifest.settings)
    method = settings.pop("method", None)
    if method not in methods.names():
        raise UserError(f"{path}: unknown method {method!r}; it was made by another version of spac-repro")
    if (settings.get("policy", {}).get("source") == "folder") != (policy is not None):
        if policy is not None:
            raise UserError(f"{folder} did not start from a model folder, and --like takes the policy from it; omit --policy")
        raise UserError(f"{folder} started from a model folder, whose path is not recorded; name the folder with --policy FOLDER")
    if policy is not None:
        settings["policy"] = {**settings["policy"], "name": str(policy)}
    # The manifest holds the settings of this method only; the others are no part of the run.
    remedy = "it was made by another version of spac-repro"
    tree = {**settings, "summary": f"repeats {manifest.recipe}"}
    recipe = validate(Recipe, tree, NamedSource(str(path), ("settings",)), remedy=remedy)
    run = Run(recipe, method, manifest.seed, manifest.provenance)
    if run.settings_sha256 != manifest.settings_sha256:
        raise UserError(f"{path}: the settings do not match their digest; the file was changed by hand")
    return run


def manifest_check(original: Path, *, allow_changed: bool, say: Callable[[str], None]) -> Callable[[Manifest], None]:
    """A check of the manifest of a rerun, to be called before anything is written.

    Args:
        original: the run folder that is rerun.
        allow_changed: go on in an environment that may change bits.
        say: called with a line for each difference that cannot be avoided here.

    Returns:
        A function that raises UserError for other inputs than the original's and, unless `allow_changed`, UnfitEnvironmentError for
        an environment that may change bits.
    """

    def inspect(manifest: Manifest) -> None:
        original_manifest = RunFolder.open(original).manifest
        found = [difference for difference in differences(original_manifest, manifest) if difference.key != "segments"]
        for difference in found:
            if difference.key.startswith("inputs.") and difference.impact is Impact.BY_DESIGN:
                raise UserError(f"not the inputs of {original}: {_line(difference)}; give the same preferences and questions")
        unmatched = [difference for difference in found if difference.impact is not Impact.NONE]
        for difference in unmatched:
            say(f"cannot be matched here: {_line(difference)} ({difference.impact.value}: {difference.known.size})")
        if unmatched and not allow_changed:
            more = f", and {len(unmatched) - 1} more" if len(unmatched) > 1 else ""
            raise UnfitEnvironmentError(
                f"{original} was made in another environment: {_line(unmatched[0])}{more}; "
                "go on without a claim to equal bits with --allow-changed-environment"
            )

    return inspect


def compare_with_original(original: Path, rerun: Path) -> tuple[Comparison, bool]:
    """Compare a run with its rerun.

    Returns:
        The comparison, and whether the run is reproduced: no score differs by more than noise, and a recorded difference explains
        every other one.
    """
    comparison = compare(original, rerun)
    return comparison, not comparison.unexplained and comparison.exit_code == 0


def _line(difference: Difference) -> str:
    return f"{difference.key} is {difference.a!r} there and {difference.b!r} here"
