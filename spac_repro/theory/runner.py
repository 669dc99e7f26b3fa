"""`spac-repro theory`: run the experiments, reuse finished ones, draw figures and tables, verify against expected_results.

The same for an instance of the user's own, which there is nothing to verify against.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spac_repro.documents import strict_json
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.runs import verdict as verdicts
from spac_repro.runs.files import sha256_file, write_bytes, write_json

if TYPE_CHECKING:
    from spac_repro.progress import Progress
    from spac_repro.runs.verdict import Verdict
    from spac_repro.theory.result import ExperimentResult
    from spac_repro.trust.expected import FreshValues

EXPERIMENTS = {
    "prototype": "one prompt, 50 responses, n = 100 … 10,000: the first table",
    "samples": "suboptimality as a function of n, T = n/10, on a shrinking and on a fixed gap",
    "rounds": "suboptimality as a function of T at large n, with the prescribed and with a constant step size",
    "coverage": "μ covers π* equally well while its other mass spreads over more responses",
    "uncovered": "the coverage of π* itself shrinks: SPAC-T must fail too",
    "loose": "the critic's bound is wider than the range of the true reward",
    "tuning": "sensitivity to λ, η and the rivals' parameters",
    "features": "a linear critic, over 20 prompts",
    "baseline": "the practical losses on softmax policies, with and without the critic's baseline",
}
FIRST_SEED = 101  # expected_results/theory.yaml was measured on seeds 1 … 20; a fresh run takes others


Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class InstanceReport:
    """The outcome of `run_instance`.

    Attributes:
        result: The result, as in its JSON file.
        files: The files written, relative to the output folder.
        table: The content of table.md.
    """

    result: dict[str, Any]
    files: list[str]
    table: str

    def as_json(self) -> dict[str, Any]:
        """Return what `spac-repro theory --instance FILE --json` prints."""
        return {"studies": {"instance": _summary(self.result)}, "files": self.files}


@dataclass(frozen=True)
class Report:
    """The outcome of `run`.

    Attributes:
        results: Each experiment's result, as in its JSON file.
        verdict: The fresh values against the expected results.
        files: The files written, relative to the output folder.
        table: The content of table.md.
    """

    results: dict[str, dict[str, Any]]
    verdict: Verdict
    files: list[str]
    table: str

    def as_json(self) -> dict[str, Any]:
        """Return what `spac-repro theory --json` prints."""
        return {
            "studies": {name: _summary(result) for name, result in self.results.items()},
            "verdict": self.verdict.as_json(),
            "files": self.files,
        }


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("slopes", "tests", "findings")}


def run(
    experiments: Sequence[str] | None = None,
    *,
    quick: bool = False,
    out: Path,
    seeds: int | None = None,
    first_seed: int = FIRST_SEED,
    expected: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run experiments and verify their values. A finished experiment is run again only if its settings or the code changed.

    Files written into `out`: <experiment>.json, .png and .svg (data and figure; no .svg with `quick`), table.md (every curve in
    numbers) and verdict.json (the fresh values against the expected results).

    Args:
        experiments: Names of the experiments; by default all.
        quick: Run fewer seeds and settings.
        out: The output folder.
        seeds: Number of seeds; by default 20, with `quick` 5.
        first_seed: The first seed.
        expected: The file of expected results; by default expected_results/theory.yaml.
        progress: Told what is running.

    Raises:
        UserError: An experiment is unknown, there are fewer than 2 seeds, or a seed is negative.
    """
    from spac_repro.progress import MessagesOnly

    names = _known(experiments)
    chosen_seeds = _seeds(5 if seeds is None and quick else seeds, first_seed)
    progress = progress or MessagesOnly()
    from spac_repro.theory.experiments import FUNCTIONS

    results = {}
    for name in names:
        progress.start_stage(name)
        results[name] = _load_or_run(name, FUNCTIONS[name], chosen_seeds, quick, out, progress.update)
    progress.start_stage("figures and verdict")
    files, table = _write_figures_and_table(results, out)
    verdict = judge(fresh_values(results), chosen_seeds, expected, partial=quick or set(names) != set(EXPERIMENTS))
    verdict_file = verdicts.write(out, verdict)
    return Report(results, verdict, [*files, verdict_file.name], table)


def run_instance(
    file: Path, *, out: Path, seeds: int | None = None, first_seed: int = FIRST_SEED, progress: Progress | None = None
) -> InstanceReport:
    """Compare SPAC-T with its rivals on an instance of the user's own. A finished comparison is made again only if it changed.

    Files written into `out`: instance.json, instance.png and instance.svg, table.md. There is nothing to verify them against.

    Args:
        file: The instance; `own_instance.InstanceFile` describes its keys.
        out: The output folder.
        seeds: Number of seeds; by default 20.
        first_seed: The first seed.
        progress: Told what is running.

    Raises:
        UserError: The file is not valid, there are fewer than 2 seeds, or a seed is negative.
    """
    from spac_repro.progress import MessagesOnly
    from spac_repro.theory.own_instance import InstanceFile, compare_on_instance

    instance = InstanceFile.read(file)
    chosen_seeds = _seeds(seeds, first_seed)
    progress = progress or MessagesOnly()
    progress.start_stage(f"instance {file.name}")
    result = _load_or_run(
        "instance", partial(compare_on_instance, instance), chosen_seeds, False, out, progress.update, instance.model_dump_json()
    )
    progress.start_stage("figure and table")
    files, table = _write_figures_and_table({"instance": result}, out)
    return InstanceReport(result, files, table)


def _seeds(number: int | None, first: int) -> list[int]:
    number = 20 if number is None else number
    if number < 2:
        raise UserError(f"seeds: is {number}; a confidence band needs at least 2")
    if first < 0:
        raise UserError(f"first seed: is {first}; give a number from 0")
    return list(range(first, first + number))


def _write_figures_and_table(results: dict[str, dict[str, Any]], out: Path) -> tuple[list[str], str]:
    """Write the figures and table.md; return the names of all files of the results, and the table."""
    from spac_repro.theory.figures import draw_figures, markdown_table

    files = [f"{name}.json" for name in results]
    for result in results.values():
        files += draw_figures(result, out)
    table = "\n\n".join(markdown_table(result) for result in results.values()) + "\n"
    write_bytes(out / "table.md", table.encode())
    return [*files, "table.md"], table


def _known(experiments: Sequence[str] | None) -> list[str]:
    if not experiments:
        return list(EXPERIMENTS)
    for name in experiments:
        if name not in EXPERIMENTS:
            raise UserError(f"unknown experiment {name!r}{did_you_mean(name, EXPERIMENTS)}; there are {', '.join(EXPERIMENTS)}")
    return list(dict.fromkeys(experiments))


def _load_or_run(
    name: str,
    function: Callable[[list[int], bool, Advance], ExperimentResult],
    seeds: list[int],
    quick: bool,
    out: Path,
    advance: Advance,
    inputs: str = "",
) -> dict[str, Any]:
    """Return an experiment's result: read from `out` if the file there has the same identity, else computed and written.

    `inputs` is what the result depends on beside the settings and the code.
    """
    from spac_repro.theory import vectorized

    identity = _identity(f"{name}{inputs}", seeds, quick, vectorized.PESSIMISM)
    path = out / f"{name}.json"
    try:
        stored: dict[str, Any] = strict_json.read(path, dict)
        if stored.get("identity") == identity:
            return stored
    except UserError:
        pass  # missing, truncated or not ours: compute it again
    result = function(seeds, quick, advance)
    content = {"identity": identity, "quick": quick, **vars(result)}
    write_json(path, content)
    return dict(strict_json.read(path, dict))


def _identity(name: str, seeds: list[int], quick: bool, pessimism: float) -> str:
    """Hash what an experiment's numbers depend on: its settings, the code and the numerical libraries."""
    import numpy
    import scipy

    digest = hashlib.sha256(json.dumps([name, seeds, quick, pessimism, numpy.__version__, scipy.__version__]).encode())
    folder = Path(__file__).parent
    for file in sorted([*folder.glob("*.py"), folder.parent / "objectives.py"]):
        if file.name not in ("runner.py", "figures.py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def fresh_values(results: dict[str, dict[str, Any]]) -> FreshValues:
    """Return the values to verify, one for each seed, by row."""
    from spac_repro.runs.verdict import ScoreKey

    return {
        ScoreKey(row["method"], row["task"], row["metric"]): row["values"]
        for result in results.values()
        for row in result["measured"]
    }


def judge(fresh: FreshValues, seeds: Sequence[int], expected: Path | None = None, *, partial: bool = False) -> Verdict:
    """Verify fresh values against the expected results.

    Args:
        fresh: One value for each seed, by row.
        seeds: The seeds of the values.
        expected: The file of expected results; by default expected_results/theory.yaml.
        partial: Not every experiment was run, so rows may be missing.
    """
    from spac_repro.runs.verdict import ExpectedResultsFile, Verdict
    from spac_repro.trust.expected import expected_path, load_expected
    from spac_repro.trust.verification import verify

    path = expected or expected_path("theory")
    if expected is None and not path.exists():
        return Verdict("theory", "unverified", "there is no expected_results/theory.yaml", alpha=0.0)
    rows = load_expected(path)
    expected_seeds = {seed for source in rows.sources.values() for seed in getattr(source, "seeds", ())}
    shared = sorted(expected_seeds & set(seeds))
    note = f"{len(shared)} seeds are also seeds of the expected rows, so agreement is weaker evidence than α says"
    verdict = verify(rows, fresh, partial=partial, notes=[note] if shared else [])
    name = str(expected or "expected_results/theory.yaml")  # the package's own place differs between machines
    return replace(verdict, expected_file=ExpectedResultsFile(name, sha256_file(path)))
