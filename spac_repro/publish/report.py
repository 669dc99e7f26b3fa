"""One self-contained HTML page about one run or many: verdict first, then scores, curves, responses, provenance, how to repeat it.

Nothing in the page is fetched from anywhere, no script is in it, and all text of models, data and manifests is escaped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from spac_repro.errors import UserError
from spac_repro.publish import plots
from spac_repro.publish.figures import figures
from spac_repro.publish.groups import Group, RunView, grouped
from spac_repro.publish.provenance import command, facts, settings
from spac_repro.publish.responses import responses
from spac_repro.publish.scores import tables
from spac_repro.runs import files
from spac_repro.runs.folder import find_runs
from spac_repro.runs.manifest import leaf_differences
from spac_repro.runs.verdict import Verdict
from spac_repro.trust.verification import verify_runs


def write(folders: Sequence[Path], out: Path) -> int:
    """Write the page about these runs, or the runs below these folders, and return its size in bytes.

    Raises:
        UserError: no run, or a damaged one.
    """
    views = [RunView(run) for run in dict.fromkeys(run for folder in folders for run in find_runs(folder))]
    page = _page(views, grouped(views)).encode()
    files.write_bytes(out, page)
    return len(page)


@dataclass(frozen=True)
class Section:
    """What the page says of the runs of one recipe."""

    verdict: Verdict
    unfinished: int  # runs that are not in the verdict

    @property
    def sign(self) -> str:
        return {"verified": "✓", "disagrees": "✗", "unverified": "?"}[self.verdict.status]


def _verdicts(views: Sequence[RunView]) -> Iterator[Section]:
    """One verdict a recipe; what cannot be held against anything says why."""
    for name in dict.fromkeys(view.manifest.recipe for view in views):
        its = [view for view in views if view.manifest.recipe == name]
        done = [view.folder.path for view in its if view.complete]
        try:
            verdict = verify_runs(done) if done else Verdict(name, "unverified", "no run of it is complete", 0.0)
        except UserError as error:
            verdict = Verdict(name, "unverified", str(error), 0.0)
        yield Section(verdict, len(its) - len(done))


def _page(views: Sequence[RunView], groups: Sequence[Group]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = (resources.files("spac_repro") / "publish" / "report.html.jinja").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    # An <svg> is matplotlib's own output, which escapes the labels; everything else is escaped by the template.
    drawn = [replace(plot, svg=Markup(plots.svg(plot, number))) for number, plot in enumerate(figures(groups))]
    first, recipes = views[0], ", ".join(dict.fromkeys(view.manifest.recipe for view in views))
    return template.render(
        title=first.name if len(views) == 1 else f"{len(views)} runs of {recipes}",
        views=views,
        groups=groups,
        verdicts=list(_verdicts(views)),
        tables=list(tables(groups)),
        figures=drawn,
        responses=list(responses(groups)),
        settings=[(group.label, list(settings(group.first))) for group in groups],
        inputs=list(facts(first.manifest.inputs)),
        environment=list(facts(first.manifest.environment)),
        others=[view.name for view in views if _other_environment(view, first)],
        segments=[view.name for view in views if view.manifest.segments],
        commands=[command(view) for view in views],
        source=first.manifest.environment.get("source"),
        times=first.folder.timing(),
        first=first,
    )


def _other_environment(view: RunView, first: RunView) -> bool:
    return any(True for _ in leaf_differences(view.manifest.environment, first.manifest.environment))
