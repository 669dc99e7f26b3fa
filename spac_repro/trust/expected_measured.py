"""Make a file of expected results from finished runs of one's own (`spac-repro expected measure`)."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.runs import files, numerics
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import leaf_differences
from spac_repro.runs.train_command import train_command
from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected import MIN_SEEDS, START, ExpectedResults, ExpectedRow, Measured, measured_rows
from spac_repro.trust.run_scores import RunScores, read_run_scores

SOURCE = "ours"
PRIMARY = (("heldout", "margin"), ("gold", "reward"))
ROUNDING = 1e-6


def measure(folders: Sequence[Path], output: Path, *, primary: Sequence[tuple[str, str]] = ()) -> ExpectedResults:
    """Write the mean, the spread and the number of seeds of every score.

    Args:
        folders: finished runs of one recipe and one method that differ in their seed only.
        output: the file to write; it must not exist.
        primary: task and metric of the scores of the last iterate that decide a verdict. Default: the margin on held-out
            preferences and the gold reward, where they were measured.

    Returns:
        The content of the file.

    Raises:
        UserError: too few runs, seed 0 among them, runs that differ in more than their seed, a score that they do not have, or a
            file that exists.
    """
    if output.exists():
        raise UserError(f"{output} exists; choose another file with -o, or remove it")
    runs = [RunFolder.open(folder) for folder in folders]
    evidence = [read_run_scores(folder) for folder in folders]
    seeds = [run.seed or 0 for run in evidence]
    if len({*seeds}) < max(len(seeds), MIN_SEEDS) or 0 in seeds:
        found = ", ".join(map(str, sorted(seeds)))
        raise UserError(
            f"seeds {found}: expected results come from {MIN_SEEDS} or more different seeds, and seed 0 is kept for the run that "
            "is verified; train others"
        )
    _check_alike(runs)
    content = ExpectedResults(
        recipe=evidence[0].recipe,
        settings_sha256={evidence[0].method: evidence[0].settings_sha256 or ""},
        sources={SOURCE: Measured.model_validate(_source(runs[0], evidence, seeds))},
        rows=tuple(_rows(evidence, primary)),
    )
    files.write_bytes(output, content.as_yaml().encode())
    return content


def _check_alike(runs: Sequence[RunFolder]) -> None:
    first = runs[0].manifest
    for run in runs[1:]:
        manifest = run.manifest
        for part in ("recipe", "method", "settings", "inputs", "environment"):
            for key, here, there in leaf_differences({part: getattr(first, part)}, {part: getattr(manifest, part)}):
                raise UserError(f"{run}: {key} is {there!r}, and {here!r} in {runs[0]}; the runs may differ in their seed only")


def _source(run: RunFolder, evidence: Sequence[RunScores], seeds: Sequence[int]) -> dict[str, object]:
    environment = run.manifest.environment
    return {
        "kind": "measured",
        "commit": (environment.get("source") or {}).get("commit") or f"spac-repro {environment.get('package')}",
        "lock_sha256": (environment.get("lock") or {}).get("sha256") or "",
        "hardware": numerics.hardware(environment),
        "date": date.today(),
        "seeds": sorted(seeds),
        "command": train_command(run.manifest, seed="N"),
        "harness": evidence[0].harness,
    }


def _rows(evidence: Sequence[RunScores], primary: Sequence[tuple[str, str]]) -> list[ExpectedRow]:
    last = max(evidence[0].scores)
    measured = {(score.task, score.metric) for score in evidence[0].scores[last]}
    known = ", ".join("/".join(name) for name in sorted(measured))
    for name in primary:
        if name not in measured:
            raise UserError(one_line(f"--primary {'/'.join(name)}: not measured; the scores are {known}", 290))
    decisive = {*(primary or PRIMARY)} & measured
    if not decisive:
        raise UserError(one_line(f"name a score that decides with --primary TASK/METRIC; the scores are {known}", 290))
    rows: list[ExpectedRow] = []
    for iteration, score in evidence[0].items():
        key = ScoreKey(START if iteration == 0 else evidence[0].method, score.task, score.metric, iteration)
        values = [_value(run, iteration, score.task, score.metric) for run in evidence]
        decides = {key} if iteration == last and (score.task, score.metric) in decisive else set()
        information = {"n": score.n, "version": score.version or None, "rounding": ROUNDING}
        rows += measured_rows({key: values}, SOURCE, primary=decides.__contains__, **information)
    return rows


def _value(run: RunScores, iteration: int, task: str, metric: str) -> float:
    for score in run.scores.get(iteration, ()):
        if (score.task, score.metric) == (task, metric):
            return score.value
    raise UserError(f"{run.source}: no score {task} {metric} of iterate {iteration}; the runs may differ in their seed only")
