"""Make expected_results/<recipe>.yaml from records of runs.

    python experiments/records.py FOLDER tiny-seeds
    python experiments/expected.py tiny-seeds --write expected_results/tiny.yaml

The primary rows are two scores of the last iterate: the margin ρ(y⁺) − ρ(y⁻) on held-out preferences, and the gold reward. Of all
scores on `tiny`, this margin separates SPAC's last iterate most from DPO's. Where there is no gold reward, the accuracy on held-out
preferences takes its place, and ρ of their chosen responses, which moves most (docs/results-smollm2.md). Every other score of every
iterate is secondary. The effect that a primary row must be able to detect is its distance from the start policy: whether something
was learned, and how much. A row of the leaderboard has the gain over the run's own start beside its value, where that varies much
less over seeds, or where the start has humps (docs/decisions/17-secondary-rows.md). Humps are written by hand, with their argument;
those of the file that is replaced stay.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import records
from curves import values

from spac_repro import methods
from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected import START, ExpectedResults, load_expected, measured_rows
from spac_repro.trust.expected_parts import Gain, Humps
from spac_repro.trust.run_scores import RunScores

GOLD, MARGIN = ("gold", "reward"), ("heldout", "margin")
WITHOUT_GOLD = {MARGIN, ("heldout", "accuracy"), ("heldout", "rho_chosen")}


def main() -> None:
    """Write the file that is named, or check that it is what the records give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="Name of records, such as tiny-seeds.")
    parser.add_argument("--write", type=Path, required=True, help="The expected_results file to write.")
    arguments = parser.parse_args()
    try:
        humps = humps_of(load_expected(arguments.write)) if arguments.write.exists() else {}
        content = expected(records.read(arguments.records), humps)
    except UserError as error:
        raise SystemExit(str(error)) from None
    files.write_bytes(arguments.write, content.as_yaml().encode())


def expected(found: records.Records, humps: Mapping[ScoreKey, Humps] | None = None) -> ExpectedResults:
    """The content of the file, from the runs with the recipe's settings. Methods with equal seeds have one source.

    The rows of the start policy come from the method with the most seeds, since all methods share it.

    Args:
        found: the records.
        humps: those of each row that has some.
    """
    humps = humps or {}
    runs = found.runs()
    by_method = {name: runs[name] for name in methods.names() if name in runs}
    most = max(by_method, key=lambda method: len(by_method[method]))
    sources = {name: _source(name, by_method) for name in dict.fromkeys(map(_source_name, by_method.values()))}
    rows: list[Any] = []
    for method, of_method in by_method.items():
        for iteration in of_method[0].scores:
            if iteration or method == most:
                rows += _rows(method, of_method, iteration, humps)
    content = {
        "recipe": found.about["recipe"],
        "alpha": 0.01,
        "settings_sha256": {method: of_method[0].settings_sha256 for method, of_method in by_method.items()},
        "sources": {name: {**_about(found.about), "seeds": seeds} for name, seeds in sources.items()},
        "rows": rows,
    }
    return ExpectedResults.model_validate(content)


def humps_of(old: ExpectedResults) -> dict[ScoreKey, Humps]:
    """The humps of a file that is to be replaced."""
    return {row.key: row.humps for row in old.rows if row.humps is not None}


def _source_name(runs: Sequence[RunScores]) -> str:
    return f"{len(runs)}_seeds"


def _source(name: str, by_method: Mapping[str, Sequence[RunScores]]) -> list[int]:
    """The seeds of a source.

    Raises:
        UserError: two methods have equally many seeds, but not the same ones.
    """
    found = {
        tuple(sorted(run.seed or 0 for run in runs)): method for method, runs in by_method.items() if _source_name(runs) == name
    }
    if len(found) > 1:
        raise UserError(f"{' and '.join(found.values())} have equally many seeds, but not the same ones; train the missing runs")
    return list(next(iter(found)))


def _about(about: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("commit", "lock_sha256", "hardware", "date", "command", "harness")
    return {"kind": "measured", **{key: about[key] for key in kept}}


def _rows(method: str, runs: Sequence[RunScores], iteration: int, humps: Mapping[ScoreKey, Humps]) -> list[Any]:
    """The rows of one iterate of a method."""
    rows: list[Any] = []
    last, primary_scores = max(runs[0].scores), _primary_scores(runs[0])
    for score in runs[0].scores[iteration]:
        key = ScoreKey(START if iteration == 0 else method, score.task, score.metric, iteration)
        primary = {key} if iteration == last and (score.task, score.metric) in primary_scores else set()
        information: dict[str, Any] = {"n": score.n, "version": score.version or None, "rounding": 1e-6}
        of_seeds = {key: values(runs, score.task, score.metric, iteration)}
        if iteration and score.of_leaderboard:
            always = ScoreKey(START, score.task, score.metric, 0) in humps
            information["gain"] = gain_over(values(runs, score.task, score.metric, 0), of_seeds[key], always=always)
        information["humps"] = humps.get(key)
        rows += measured_rows(of_seeds, _source_name(runs), primary=primary.__contains__, **information)
    return rows


def _primary_scores(run: RunScores) -> set[tuple[str, str]]:
    """The scores, as (task, metric), whose rows at the last iterate decide."""
    measured = {(score.task, score.metric) for scores in run.scores.values() for score in scores}
    return {MARGIN, GOLD} if GOLD in measured else WITHOUT_GOLD


def gain_over(starts: Sequence[float], later: Sequence[float], *, always: bool = False) -> Gain | None:
    """The gain of the runs over their own starts; None unless its variance is less than half of the scores' own.

    Args:
        starts: the score of each run's start.
        later: the score of a later iterate of the same runs.
        always: whatever the variances are: the start's score has humps.
    """
    gains = [value - start for value, start in zip(later, starts, strict=True)]
    if not always and statistics.variance(gains) >= statistics.variance(later) / 2:
        return None
    return Gain(value=statistics.fmean(gains), sd=statistics.stdev(gains))


if __name__ == "__main__":
    main()
