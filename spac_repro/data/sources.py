"""The inputs of a run: preference pairs, and the leaderboard's questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.data import held_out
from spac_repro.data import preferences as preference_pairs
from spac_repro.data.preferences import Preference
from spac_repro.data.reading_summary import ReadingSummary
from spac_repro.data.world import Behaviour, World
from spac_repro.errors import UserError
from spac_repro.recipe import Run, WorldSettings
from spac_repro.runs import files


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run.

    Attributes:
        preferences: the preference pairs.
        world: the built-in world that they come from; None: they come from a file or the hub.
        questions: folder of the leaderboard's questions; None: they come from the hub or the built-in world.
        heldout: the preferences that are not trained on; empty for the world, which makes others.
        suite_sha256: hash of each task file of a user's own suite, by name; None for a suite that ships with the package.
        summary: what was found when the preferences were read; None for those of the world.
    """

    preferences: Sequence[Preference]
    world: World | None
    questions: Path | None
    suite_sha256: Mapping[str, str] | None = None
    summary: ReadingSummary | None = None
    heldout: Sequence[Preference] = ()

    def identity(self) -> dict[str, Any]:
        """Return what identifies the inputs in a manifest: hashes and counts, no paths."""
        folder = self.questions
        question_files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
        return {
            "preferences": len(self.preferences),
            "preferences_sha256": preference_pairs.fingerprint(self.preferences),
            "questions_sha256": {str(file.relative_to(folder)): files.sha256_file(file) for file in question_files}
            if folder
            else None,
            **({} if self.suite_sha256 is None else {"suite_sha256": dict(self.suite_sha256)}),
            **({"heldout": self._heldout_identity()} if self.heldout else {}),
        }

    def _heldout_identity(self) -> dict[str, Any]:
        prompts = {held_out.prompt_sha256(row) for row in self.heldout}
        return {"preferences": len(self.heldout), "prompts": len(prompts), "sha256": preference_pairs.fingerprint(self.heldout)}

    def heldout_preferences(self, pairs: int) -> Sequence[Preference]:
        """Return the held-out preferences: those of the source, or the first `pairs` that the world makes."""
        return self.heldout if self.world is None else self.world.preferences(pairs, "heldout")

    def messages(self) -> list[str]:
        """What to say of the preferences, if anything."""
        said = list(self.summary.messages()) if self.summary else []
        if self.heldout:
            found = self._heldout_identity()
            said.append(f"{found['preferences']:,} preference pairs of {found['prompts']:,} prompts are held out from training")
        return said

    def reading(self) -> dict[str, Any]:
        """Return what a manifest records beside the identity: the rows that were dropped when the preferences were read, if any."""
        recorded = self.summary.recorded() if self.summary else {}
        return {"reading": recorded} if recorded else {}


def read(run: Run, *, preferences: str | None, questions: Path | None, strict: bool = False) -> Inputs:
    """Read the inputs of a run.

    Args:
        run: the recipe.
        preferences: source of the preference pairs (`read_preferences`) instead of the recipe's.
        questions: folder of the leaderboard's questions instead of the hub.
        strict: refuse rows that state no preference, and do not drop them.

    Raises:
        UserError: neither the recipe nor `preferences` names any, both do, or a row is bad.
        UnfitEnvironmentError: the hub cannot be reached and the data set is not cached.
    """
    data, suite = run.recipe.data, run.recipe.evaluation.suite
    if data.world is not None:
        if preferences is not None:
            raise UserError(
                f"recipe {run.recipe.name} uses the preferences of the built-in world; omit --preferences, or choose another recipe"
            )
        world = build_world(data.world)
        question_folder = questions if suite.has_tasks and not suite.uses_world else None
        return Inputs(world.preferences(data.max_pairs or 2000), world, question_folder, suite.file_hashes())
    source = preferences or data.name
    if source is None:
        raise UserError(f"recipe {run.recipe.name} has no preferences; name some with --preferences FILE")
    if not data.heldout_prompts:
        found = preference_pairs.read(source, revision=data.revision, limit=data.max_pairs, strict=strict)
        return Inputs(found.preferences, None, questions, suite.file_hashes(), found.summary)
    found = preference_pairs.read(source, revision=data.revision, strict=strict)  # the held-out part is of all rows
    train, heldout = held_out.split(found.preferences, data.heldout_prompts, source=source)
    return Inputs(train.first(data.max_pairs), None, questions, suite.file_hashes(), found.summary, heldout)


def build_world(settings: WorldSettings) -> World:
    """Build the built-in world from a recipe's settings."""
    behaviour = Behaviour(settings.correct, settings.near_miss, settings.truncated, settings.garbage)
    return World(seed=settings.seed, behaviour=behaviour, preference_scale=settings.preference_scale)
