"""Record how two groups of evaluations compare question by question, for a table of docs/.

    python experiments/paired_records.py NAME A=PATH[@ITERATE] B=PATH[@ITERATE] [--only TASK]

A and B are what the table calls them. A path is what `spac-repro compare` takes: a run, a folder of runs (the seeds of a method),
or an answers file. `@0` takes the start of runs, and without it their last iterate is taken. experiments/records/NAME.paired.json
gets the scores that `compare --json` prints; the questions themselves stay where they are.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import records

from spac_repro.errors import UserError
from spac_repro.evaluation.compared import evaluations
from spac_repro.runs import files
from spac_repro.trust.paired_scores import PairedScore
from spac_repro.trust.paired_tests import PValue
from spac_repro.trust.question_comparison import QuestionComparison, compare_questions


def compared(a: str, b: str) -> QuestionComparison:
    """Compare two sides, each PATH or PATH@ITERATE."""
    return compare_questions(*(evaluations([Path(path)], int(t) if t else None) for path, t in map(_parts, (a, b))))


def _parts(side: str) -> tuple[str, str]:
    path, _, iterate = side.partition("@")
    return path, iterate


def content(names: tuple[str, str], found: QuestionComparison, only: str | None = None) -> dict[str, Any]:
    """What is recorded of a comparison."""
    scores = [score for score in found.scores if only in (None, score.task)]
    if not scores:
        raise UserError(f"--only {only}: there is no such task in common")
    return {
        "names": list(names),
        "runs": [len(found.a), len(found.b)],
        "protocols": found.protocols,
        "assumptions": found.assumptions,
        "scores": [asdict(score) for score in scores],
    }


def file_of(name: str) -> Path:
    """Where a comparison is recorded."""
    return records.FOLDER / f"{name}.paired.json"


def read(name: str) -> tuple[dict[str, Any], list[PairedScore]]:
    """A recorded comparison, and its scores."""
    found = files.read_json(file_of(name))
    return found, [score_of(score, file_of(name)) for score in found["scores"]]


def score_of(recorded: Mapping[str, Any], file: Path) -> PairedScore:
    """A score that `asdict` recorded in a file."""
    if set(recorded) != {field.name for field in fields(PairedScore)}:
        raise UserError(f"{file}: not of a paired score as it is today; make the record again")
    return PairedScore(**{**recorded, "p": recorded["p"] and PValue(*recorded["p"])})


def main() -> None:
    """Write the record of one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("a", metavar="A=PATH")
    parser.add_argument("b", metavar="B=PATH")
    parser.add_argument("--only", metavar="TASK", help="Record the scores of this task alone.")
    given = parser.parse_args()
    (name_a, _, a), (name_b, _, b) = (side.partition("=") for side in (given.a, given.b))
    try:
        made = content((name_a, name_b), compared(a, b), given.only)
    except UserError as error:
        raise SystemExit(str(error)) from None
    records.FOLDER.mkdir(exist_ok=True)
    files.write_json(file_of(given.name), made)
    print(file_of(given.name))


if __name__ == "__main__":
    main()
