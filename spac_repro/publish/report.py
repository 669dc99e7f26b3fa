"""A report: one self-contained HTML page about one run or many, which starts with the verdict.

The page fetches nothing and has no script. All text of models, data and manifests is escaped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from spac_repro.errors import UserError
from spac_repro.publish import audit_section, glossary, svg
from spac_repro.publish.curves import figures
from spac_repro.publish.groups import Group, RunView, group_by_settings
from spac_repro.publish.question_section import question_sections
from spac_repro.publish.responses import response_cards
from spac_repro.publish.scores import score_names, score_tables
from spac_repro.publish.settings_section import flatten, setting_rows
from spac_repro.runs import file_hashes, files
from spac_repro.runs.folder import find_runs
from spac_repro.runs.manifest import leaf_differences
from spac_repro.runs.train_command import train_command
from spac_repro.runs.verdict import Verdict
from spac_repro.trust.verification import verify_runs


def write_report(folders: Sequence[Path], out: Path) -> int:
    """Write the report about the runs in or below these folders; return its size in bytes.

    Raises:
        UserError: There is no run, or a damaged one.
    """
    views = [RunView(run) for run in dict.fromkeys(run for folder in folders for run in find_runs(folder))]
    for view in views:
        file_hashes.check(view.folder)
    page = _render(views, group_by_settings(views)).encode()
    files.write_bytes(out, page)
    return len(page)


@dataclass(frozen=True)
class VerdictSection:
    """What the page says about the runs of one recipe.

    Attributes:
        verdict: The verdict on its complete runs.
        unfinished: Number of runs that are not in the verdict.
    """

    verdict: Verdict
    unfinished: int

    @property
    def sign(self) -> str:
        """A sign for the verdict's status."""
        return {"verified": "✓", "disagrees": "✗", "unverified": "?"}[self.verdict.status]


def _verdict_sections(views: Sequence[RunView]) -> Iterator[VerdictSection]:
    """Yield a verdict for each recipe. Where nothing can be verified, the verdict's reason says why."""
    for recipe in dict.fromkeys(view.manifest.recipe for view in views):
        runs = [view for view in views if view.manifest.recipe == recipe]
        complete = [view.folder.path for view in runs if view.complete]
        try:
            verdict = verify_runs(complete) if complete else Verdict(recipe, "unverified", "no run of it is complete", 0.0)
        except UserError as error:
            verdict = Verdict(recipe, "unverified", str(error), 0.0)
        yield VerdictSection(verdict, len(runs) - len(complete))


def _render(views: Sequence[RunView], groups: Sequence[Group]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = (resources.files("spac_repro") / "publish" / "report.html.jinja").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    # An <svg> is matplotlib's own output, which escapes the labels; everything else is escaped by the template.
    rendered = [replace(plot, svg=Markup(svg.render_svg(plot, number))) for number, plot in enumerate(figures(groups))]
    first, recipes = views[0], ", ".join(dict.fromkeys(view.manifest.recipe for view in views))
    return template.render(
        title=first.name if len(views) == 1 else f"{len(views)} runs of {recipes}",
        views=views,
        groups=groups,
        verdicts=list(_verdict_sections(views)),
        warnings=audit_section.warnings(views),
        audits=list(audit_section.audit_tables(groups)),
        tables=list(score_tables(groups)),
        questions=list(question_sections(groups)),
        figures=rendered,
        responses=list(response_cards(groups)),
        settings=[(group.label, list(setting_rows(group.first))) for group in groups],
        inputs=list(flatten({**first.manifest.inputs, **({"data": first.manifest.data} if first.manifest.data else {})})),
        environment=list(flatten(first.manifest.environment)),
        other_environments=[view.name for view in views if _other_environment(view, first)],
        segments=[view.name for view in views if view.manifest.segments],
        commands=[train_command(view.manifest) for view in views],
        source=first.manifest.environment.get("source"),
        times=first.folder.timing(),
        first=first,
        definitions=glossary.DEFINITIONS,
        score_definitions=glossary.SCORES,
        terms=glossary.terms_shown({metric for group in groups for _, metric in score_names(group)}),
    )


def _other_environment(view: RunView, first: RunView) -> bool:
    return any(True for _ in leaf_differences(view.manifest.environment, first.manifest.environment))
