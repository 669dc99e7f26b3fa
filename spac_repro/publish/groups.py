"""The runs of a report: single runs, and groups of runs that differ in nothing but the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spac_repro.recipe import complete
from spac_repro.runs.audit import Audit
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest, leaf_differences
from spac_repro.runs.metrics import StepMetrics
from spac_repro.runs.results import Score


@dataclass(frozen=True)
class RunView:
    """What a report shows of one run folder."""

    folder: RunFolder

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        return self.folder.manifest

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings, including those at their neutral values."""
        return complete(self.manifest.settings)

    @property
    def name(self) -> str:
        """Recipe, method and seed."""
        return f"{self.manifest.recipe} · {self.manifest.method} · seed {self.manifest.seed}"

    @property
    def complete(self) -> bool:
        """Whether the run has its last iterate and all scores."""
        return self.folder.complete and self.folder.results.complete

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the last iterate's weights; None while the run is unfinished."""
        return self.folder.results.weights_sha256 if self.folder.complete else None

    @cached_property
    def scores(self) -> dict[int, tuple[Score, ...]]:
        """The scores of every iterate, by iteration."""
        return {iteration.number: iteration.scores() for iteration in self.folder.iterations() if iteration.has_scores}

    @cached_property
    def audits(self) -> dict[int, Audit]:
        """The audits of data versus self-play, by iteration."""
        return {iteration.number: audit for iteration in self.folder.iterations() if (audit := iteration.audit())}

    @cached_property
    def steps(self) -> list[StepMetrics]:
        """The metrics of the self-play iterations' optimizer steps; those of the supervised start are left out."""
        return [step for step in self.folder.metrics() if step.iteration > 0]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: What a legend calls them.
        runs: The runs, by seed.
        style: Index of colour, marker and dash pattern in every figure.
    """

    label: str
    runs: tuple[RunView, ...]
    style: int

    @property
    def first(self) -> RunView:
        """The run with the lowest seed."""
        return self.runs[0]


def group_by_settings(views: Sequence[RunView]) -> list[Group]:
    """Group runs by recipe, method and settings. A label names the settings in which groups of one method differ."""
    members: dict[tuple[str, str, str | None], list[RunView]] = {}
    for view in views:
        manifest = view.manifest
        members.setdefault((manifest.recipe, manifest.method, manifest.settings_sha256), []).append(view)
    several_recipes = len({recipe for recipe, _, _ in members}) > 1
    groups = []
    for style, ((recipe, method, _), runs) in enumerate(members.items()):
        same_method = [others[0] for key, others in members.items() if key[:2] == (recipe, method)]
        own = _distinguishing_settings(runs[0], same_method)
        label = (f"{recipe} " if several_recipes else "") + method + (f" ({own})" if own else "")
        groups.append(Group(label, tuple(sorted(runs, key=lambda view: view.manifest.seed)), style))
    return groups


def _distinguishing_settings(view: RunView, others: Sequence[RunView], max_settings: int = 2) -> str:
    """Return the settings that differ among runs of one method, with this run's values, short enough for a legend."""
    first = others[0].settings
    settings = []
    for key in dict.fromkeys(key for other in others for key, _, _ in leaf_differences(first, other.settings)):
        value: Any = view.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        settings.append(f"{key.rsplit('.', 1)[-1]} {format_value(value)}"[:24])
    return ", ".join(settings[:max_settings]) + (", …" if len(settings) > max_settings else "")


def format_value(value: Any) -> str:
    """Format a recorded value in one line."""
    if value is None or value in ([], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
