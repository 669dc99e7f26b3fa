"""The runs that a report is about, as it shows them: each by itself, and those together that differ in nothing but the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spac_repro.recipe import complete
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
        return self.folder.manifest

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings, those at their neutral values included."""
        return complete(self.manifest.settings)

    @property
    def name(self) -> str:
        return f"{self.manifest.recipe} · {self.manifest.method} · seed {self.manifest.seed}"

    @property
    def complete(self) -> bool:
        return self.folder.complete and self.folder.results.complete

    @property
    def weights_sha256(self) -> str | None:
        """Of the last iterate; None while the run is unfinished."""
        return self.folder.results.weights_sha256 if self.folder.complete else None

    @cached_property
    def scores(self) -> dict[int, tuple[Score, ...]]:
        """By iteration."""
        return {its.number: its.scores() for its in self.folder.iterations() if its.has_scores}

    @cached_property
    def steps(self) -> list[StepMetrics]:
        """The metrics of the iterations, the supervised start's left out."""
        return [step for step in self.folder.metrics() if step.iteration > 0]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: tuple[RunView, ...]
    style: int  # of its lines in every figure

    @property
    def first(self) -> RunView:
        return self.runs[0]


def grouped(views: Sequence[RunView]) -> list[Group]:
    """The runs by recipe, method and settings; a group whose method has other settings elsewhere says which ones it has set."""
    members: dict[tuple[str, str, str | None], list[RunView]] = {}
    for view in views:
        its = view.manifest
        members.setdefault((its.recipe, its.method, its.settings_sha256), []).append(view)
    several = len({recipe for recipe, _, _ in members}) > 1
    groups = []
    for place, ((recipe, method, _), runs) in enumerate(members.items()):
        twins = [others[0] for key, others in members.items() if key[:2] == (recipe, method)]
        own = _own_settings(runs[0], twins)
        label = (f"{recipe} " if several else "") + method + (f" ({own})" if own else "")
        groups.append(Group(label, tuple(sorted(runs, key=lambda view: view.manifest.seed)), place))
    return groups


def _own_settings(view: RunView, twins: Sequence[RunView], most: int = 2) -> str:
    """What sets a run apart from others of its method, short enough for a legend."""
    first = twins[0].settings
    told = []
    for key in dict.fromkeys(key for twin in twins for key, _, _ in leaf_differences(first, twin.settings)):
        value: Any = view.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        told.append(f"{key.rsplit('.', 1)[-1]} {said(value)}"[:24])
    return ", ".join(told[:most]) + (", …" if len(told) > most else "")


def said(value: Any) -> str:
    """A recorded value in a line."""
    if value is None or value in ([], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
