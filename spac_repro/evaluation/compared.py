"""What `compare` compares question by question: runs, folders of runs, answers files, and sample files of lm-eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard import sample_files
from spac_repro.runs import answers, file_hashes
from spac_repro.runs.folder import RunFolder, find_complete_runs
from spac_repro.trust import run_answers
from spac_repro.trust.question_comparison import QuestionComparison, compare_questions
from spac_repro.trust.question_pairs import Evaluation, NoAnswersError


@dataclass(frozen=True)
class Options:
    """What is compared.

    Attributes:
        iteration: The iterate of runs; None: the last one that all runs have answers of.
        by_subject: Whether the questions of a subject count as one cluster.
        across_protocols: Whether evaluations under different protocols are compared.
        deep: Whether large files of the runs are checked too.
    """

    iteration: int | None = None
    by_subject: bool = False
    across_protocols: bool = False
    deep: bool = False


def are_two_runs(a: Sequence[Path], b: Sequence[Path]) -> bool:
    """Whether each side is one path that is no file, holds no sample files, and holds no runs; so it is a run, or nothing."""
    return len(a) == len(b) == 1 and all(not path.is_file() and not _samples(path) and not _runs_below(path) for path in (*a, *b))


def compare(a: Sequence[Path], b: Sequence[Path], options: Options) -> QuestionComparison:
    """Compare two groups of evaluations question by question.

    Args:
        a: run folders, folders of runs (each run in them is taken), answers.parquet files, sample files or folders of such.
        b: likewise.
        options: what is compared.

    Raises:
        UserError: a path is none of these, a file is damaged, or there is nothing in common.
    """
    opened = [_open_all(side) for side in (a, b)]
    iteration = _checked_iteration([each for side in opened for each in side], options.iteration, deep=options.deep)
    of_a, of_b = ([_evaluation(each, iteration) for each in side] for side in opened)
    return compare_questions(of_a, of_b, by_subject=options.by_subject, across_protocols=options.across_protocols)


def evaluations(paths: Sequence[Path], iteration: int | None = None) -> list[Evaluation]:
    """Open one side of a comparison: the paths are those of `compare`, and the iterate is the last one unless it is named.

    Raises:
        UserError: a path is none of these, or a file is damaged.
    """
    opened = _open_all(paths)
    iteration = _checked_iteration(opened, iteration, deep=False)
    return [_evaluation(each, iteration) for each in opened]


def compare_two_runs(a: Path, b: Path, options: Options) -> QuestionComparison | str:
    """Compare two runs question by question; a run without answers is no error: say so.

    Raises:
        UserError: both have answers, and these cannot be compared.
    """
    try:
        return compare([a], [b], options)
    except NoAnswersError as error:
        return str(error)


def _open_all(paths: Sequence[Path]) -> list[RunFolder | Path]:
    return [each for path in paths for each in _open(path)]


def _checked_iteration(opened: Sequence[RunFolder | Path], iteration: int | None, *, deep: bool) -> int | None:
    """Check the files of the runs; return the iterate of them that is compared."""
    runs = [each for each in opened if isinstance(each, RunFolder)]
    for run in runs:
        file_hashes.check(run, deep=deep)
    return run_answers.last_iteration(runs) if runs and iteration is None else iteration


def _open(path: Path) -> list[RunFolder | Path]:
    """The run at a path or the complete runs in it; otherwise the path, if it has answers or samples."""
    if path.is_file() or _samples(path):
        return [path]
    return list(_runs_below(path) or [RunFolder.open(path)])


def _samples(path: Path) -> list[Path]:
    return [] if RunFolder(path).has_manifest else sample_files.find(path)


def _runs_below(path: Path) -> list[RunFolder]:
    return find_complete_runs(path) if path.is_dir() and not RunFolder(path).has_manifest else []


def _evaluation(opened: RunFolder | Path, iteration: int | None) -> Evaluation:
    if isinstance(opened, RunFolder):
        return run_answers.of_run(opened, iteration or 0)
    if samples := _samples(opened):
        return Evaluation(str(opened), sample_files.read(samples), protocol=None)
    if opened.suffix in (".yaml", ".yml"):
        raise UserError(
            f"{opened} has no answers; a file of expected results is compared with one run: spac-repro compare RUN {opened}"
        )
    found = answers.read(opened)
    return Evaluation(str(opened), found, protocol=found.about.protocol)
