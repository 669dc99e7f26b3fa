"""What a run reads: preferences, and the questions that its iterates are asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.data.preferences import Preference, fingerprint, read_preferences
from spac_repro.data.world import Behaviour, World
from spac_repro.errors import UserError
from spac_repro.recipe import Run, WorldSettings
from spac_repro.runs import files as runs


@dataclass(frozen=True)
class Inputs:
    """The preferences of a run, the world they are from (if built in), and a folder of questions (None: the hub's)."""

    preferences: Sequence[Preference]
    world: World | None
    questions: Path | None
    suite_sha256: Mapping[str, str] | None = None  # of each file of a suite of one's own

    def identity(self) -> dict[str, Any]:
        """What identifies the inputs: hashes and counts, no places."""
        folder = self.questions
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
        return {
            "preferences": len(self.preferences),
            "preferences_sha256": fingerprint(self.preferences),
            "questions_sha256": {str(file.relative_to(folder)): runs.sha256_file(file) for file in files} if folder else None,
            **({} if self.suite_sha256 is None else {"suite_sha256": dict(self.suite_sha256)}),
        }


def read(run: Run, *, preferences: str | None, questions: Path | None) -> Inputs:
    """Read the preferences that the recipe names, or the file given instead.

    Raises:
        UserError: no preferences named, or those are bad.
    """
    data, suite = run.recipe.data, run.recipe.evaluation.suite
    if data.world is not None:
        if preferences is not None:
            raise UserError(
                f"recipe {run.recipe.name} has its preferences built in; leave --preferences out, or choose another recipe"
            )
        built_in = build_world(data.world)
        asked = questions if suite.has_tasks and not suite.uses_world else None
        return Inputs(built_in.preferences(data.max_pairs or 2000), built_in, asked, suite.identity())
    source = preferences or data.name
    if source is None:
        raise UserError(f"recipe {run.recipe.name} brings no preferences; give some with --preferences FILE")
    rows = read_preferences(source, revision=data.revision, limit=data.max_pairs)
    return Inputs(rows, None, questions, suite.identity())


def build_world(settings: WorldSettings) -> World:
    """The built-in world with a recipe's settings."""
    mu = Behaviour(settings.correct, settings.near_miss, settings.truncated, settings.garbage)
    return World(seed=settings.seed, behaviour=mu, preference_scale=settings.preference_scale)
