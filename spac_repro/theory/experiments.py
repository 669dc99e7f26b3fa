"""The theorem rerun: do the studies, keep what is finished, draw, tabulate, and hold the numbers against expected_results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spac_repro.documents import strict_json
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.runs import verdict as verdicts
from spac_repro.runs.files import write_bytes, write_json

if TYPE_CHECKING:
    from spac_repro.progress import Progress
    from spac_repro.runs.verdict import Verdict
    from spac_repro.trust.expected import Fresh

EXPERIMENTS = {
    "prototype": "one prompt, 50 responses, n = 100 … 10,000: the table the method was first tried on",
    "samples": "suboptimality against n while T grows with n, on a shrinking and on a fixed gap",
    "rounds": "suboptimality against T at large n, prescribed and constant step",
    "coverage": "π* stays covered while the rest of μ thins out",
    "uncovered": "the coverage of π* itself shrinks: where SPAC-T must fail too",
    "loose": "the critic's bound is wider than the truth needs",
    "tuning": "λ, η and the rivals' parameters away from their best",
    "features": "a critic linear in features, over 20 prompts",
    "baseline": "the practical loss on softmax policies, with and without the critic's baseline",
}
FIRST_SEED = 101  # expected_results/theory.yaml has seeds 1 … 20; a fresh run takes others


@dataclass(frozen=True)
class Report:
    """What a run found: the studies' data, the verdict, and the files written, relative to the output folder."""

    studies: dict[str, dict[str, Any]]
    verdict: Verdict
    files: list[str]
    table: str

    def as_json(self) -> dict[str, Any]:
        found = {name: {key: study[key] for key in ("slopes", "tests", "findings")} for name, study in self.studies.items()}
        return {"studies": found, "verdict": self.verdict.as_json(), "files": self.files}


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
    """Run the experiments named (default: all) on `seeds` seeds from `first_seed` and write into `out`:

        <experiment>.json, .png, .svg    its data and its figure (quick: no .svg)
        table.md  verdict.json           every curve in numbers; fresh values against expected_results/theory.yaml

    `seeds` is 20, with `quick` 5; quick also takes fewer settings. A finished experiment is not run again unless its
    settings or the code changed. Raises UserError for an unknown experiment or too few seeds.
    """
    from spac_repro.progress import MessagesOnly

    names = _known(experiments)
    seeds = seeds if seeds is not None else (5 if quick else 20)
    if seeds < 2:
        raise UserError(f"seeds: is {seeds}; a confidence band needs at least 2")
    if first_seed < 0:
        raise UserError(f"first seed: is {first_seed}; give a number from 0")
    progress = progress or MessagesOnly()
    chosen = list(range(first_seed, first_seed + seeds))
    studies = {}
    for name in names:
        progress.start_stage(name)
        studies[name] = _finished(name, chosen, quick, out, progress.update)
    progress.start_stage("figures and verdict")
    files = [f"{name}.json" for name in names]
    from spac_repro.theory.figures import draw_study, table_of

    for study in studies.values():
        files += draw_study(study, out)
    table = "\n\n".join(table_of(study) for study in studies.values()) + "\n"
    write_bytes(out / "table.md", table.encode())
    verdict = judge(fresh_values(studies), chosen, expected, partial=quick or set(names) != set(EXPERIMENTS))
    said = verdicts.write(out, verdict)
    return Report(studies, verdict, [*files, "table.md", said.name], table)


def _known(experiments: Sequence[str] | None) -> list[str]:
    if not experiments:
        return list(EXPERIMENTS)
    for name in experiments:
        if name not in EXPERIMENTS:
            raise UserError(f"unknown experiment {name!r}{did_you_mean(name, EXPERIMENTS)}; there are {', '.join(EXPERIMENTS)}")
    return list(dict.fromkeys(experiments))


def _finished(name: str, seeds: list[int], quick: bool, out: Path, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """The study's data, from `out` where this very study is there, else run and written."""
    from spac_repro.theory import batches, studies

    identity = _identity(name, seeds, quick, batches.PESSIMISM)
    path = out / f"{name}.json"
    try:
        there: dict[str, Any] = strict_json.read(path, dict)
        if there.get("identity") == identity:
            return there
    except UserError:
        pass  # not there, or cut off, or another program's: it is made anew
    study = studies.STUDIES[name](seeds, quick, tell)
    content = {"identity": identity, "quick": quick, **vars(study)}
    write_json(path, content)
    return dict(strict_json.read(path, dict))


def _identity(name: str, seeds: list[int], quick: bool, pessimism: float) -> str:
    """What a study's numbers depend on: its settings, the code and the numerical libraries."""
    import numpy
    import scipy

    digest = hashlib.sha256(json.dumps([name, seeds, quick, pessimism, numpy.__version__, scipy.__version__]).encode())
    folder = Path(__file__).parent
    for file in sorted([*folder.glob("*.py"), folder.parent / "objectives.py"]):
        if file.name not in ("experiments.py", "figures.py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def fresh_values(studies: dict[str, dict[str, Any]]) -> Fresh:
    """The values for verification, one a seed, by row."""
    from spac_repro.runs.verdict import ScoreKey

    return {
        ScoreKey(row["method"], row["task"], row["metric"]): row["values"]
        for study in studies.values()
        for row in study["measured"]
    }


def judge(fresh: Fresh, seeds: Sequence[int], expected: Path | None = None, *, partial: bool = False) -> Verdict:
    """Fresh values against expected_results/theory.yaml, or the file given; `partial`: not everything was run."""
    from spac_repro.runs.verdict import Verdict
    from spac_repro.trust.expected import expected_path, load_expected
    from spac_repro.trust.verification import verify

    path = expected or expected_path("theory")
    if expected is None and not path.exists():
        return Verdict("theory", "unverified", "there is no expected_results/theory.yaml", alpha=0.0)
    rows = load_expected(path)
    own = {seed for source in rows.sources.values() for seed in getattr(source, "seeds", ())}
    shared = sorted(own & set(seeds))
    note = f"{len(shared)} of the seeds are among the rows' own, so agreement says less than the level promises"
    return verify(rows, fresh, partial=partial, notes=[note] if shared else [])
