"""The answers of iterates of runs, as evaluations that can be compared question by question."""

from collections.abc import Sequence

from spac_repro.errors import UserError
from spac_repro.runs.folder import RunFolder
from spac_repro.trust.question_pairs import Evaluation, NoAnswersError


def last_iteration(runs: Sequence[RunFolder]) -> int:
    """The last iteration of which every run has answers.

    Raises:
        UserError: a run has none, or the runs have no such iteration in common.
    """
    there = [{each.number for each in run.iterations() if each.answers_file.exists()} for run in runs]
    for run, numbers in zip(runs, there, strict=True):
        if not numbers:
            raise NoAnswersError(
                f"{run} has no answers.parquet: it is unfinished, or was made before version 0.3; score its iterates with "
                "`spac-repro evaluate … --answers FILE`, and compare the files"
            )
    if not (common := set.intersection(*there)):
        raise UserError(f"{runs[0]} and {runs[-1]} have no scored iteration in common; finish the runs")
    return max(common)


def of_run(run: RunFolder, iteration: int) -> Evaluation:
    """The answers of an iterate of a run.

    Raises:
        UserError: they are not there, or damaged.
    """
    answers = run.iteration(iteration).answers()
    if answers is None:
        raise UserError(f"{run}: iteration {iteration} has no answers.parquet; name another --iteration, or finish the run")
    manifest = run.manifest
    return Evaluation(f"{run}, iterate {iteration}", answers, manifest.seed, answers.about.protocol)
