"""The report's section on the questions: groups of runs against each other, or the last iterate against the start."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spac_repro.errors import UserError
from spac_repro.publish.groups import Group
from spac_repro.trust import question_tables, run_answers
from spac_repro.trust.question_comparison import QuestionComparison, compare_questions

SHOWN = 20  # changed questions of a comparison


@dataclass(frozen=True)
class QuestionSection:
    """One comparison of a report.

    Attributes:
        title: What is compared.
        comparison: The comparison; None if there is none.
        reason: Why there is none.
    """

    title: str
    comparison: QuestionComparison | None
    reason: str = ""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells of each score."""
        return [question_tables.cells(score) for score in self.comparison.scores] if self.comparison else []

    @property
    def changed(self) -> list[tuple[str, ...]]:
        """The cells of the first questions that changed."""
        return [question_tables.question_cells(each) for each in self.comparison.changed[:SHOWN]] if self.comparison else []

    @property
    def flips(self) -> int:
        """The number of questions that flipped."""
        return question_tables.flips(self.comparison.changed) if self.comparison else 0

    @property
    def run(self) -> str:
        """Whose answers are shown."""
        return question_tables.whose_answers(self.comparison) if self.comparison else ""


def question_sections(groups: Sequence[Group]) -> Iterator[QuestionSection]:
    """Yield the first group against each of the others; for one group, its start against its last iterate.

    Runs without answers (versions before 0.3 wrote none) are in no comparison.
    """
    answered = [group for group in groups if all(_has_answers(group, run) for run in range(len(group.runs)))]
    if len(answered) > 1:
        for group in answered[1:]:
            yield _section(f"A: {answered[0].label}, B: {group.label}", (answered[0], group))
    elif answered:
        yield _section(f"{answered[0].label}. A: start policy, B: last iterate", (answered[0],))


def _has_answers(group: Group, run: int) -> bool:
    return any(each.answers_file.exists() for each in group.runs[run].folder.iterations())


def _section(title: str, groups: tuple[Group, ...]) -> QuestionSection:
    sides = [[view.folder for view in group.runs] for group in groups]
    try:
        last = run_answers.last_iteration([run for side in sides for run in side])
        iterations = (0, last) if len(groups) == 1 else (last, last)
        of_a, of_b = (
            [run_answers.of_run(run, t) for run in side] for side, t in zip((sides[0], sides[-1]), iterations, strict=True)
        )
        return QuestionSection(title, compare_questions(of_a, of_b))
    except UserError as error:
        return QuestionSection(title, None, str(error))
