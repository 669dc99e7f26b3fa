"""runs/ alone knows what the files of a run are called, and what is in them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("spac_repro", "launchers", "experiments", "bench")
NAMES = re.compile(
    r"""["'/](manifest|results|verdict|timing|scores|samples|audit|gold|contamination|overlap)\.json["']|iteration-(\*|\{|\d)"""
    r"""|metrics\.jsonl|(selfplay|heldout)\.parquet|fingerprint\.json|ro-crate-metadata\.json|["']\.(lock|owner\.json)["']"""
)
# What is called alike and lies elsewhere.
OTHERS = {
    "launchers/sweep_folder.py": "the lock of a sweep's jobs",
    "spac_repro/prefetch.py": "the locks in a cache",
}


def named(source: str) -> list[str]:
    """The lines that name a file of a run."""
    return [line.strip() for line in source.splitlines() if NAMES.search(line)]


def elsewhere(root: Path) -> dict[str, list[str]]:
    """Such lines by file, outside runs/."""
    files = {str(file.relative_to(root)): file for room in ROOMS for file in (root / room).rglob("*.py")}
    found = {name: named(file.read_text()) for name, file in files.items() if not name.startswith("spac_repro/runs/")}
    return {name: lines for name, lines in found.items() if lines}


def test_runs_alone_names_the_files_of_a_run() -> None:
    found = elsewhere(ROOT)
    assert {name: lines for name, lines in found.items() if name not in OTHERS} == {}
    assert set(found) == set(OTHERS), "an exception that is no longer needed"


@pytest.mark.parametrize(
    "line",
    [
        'file = folder / "results.json"',
        "file = folder / 'manifest.json'",
        'files = sweep.glob("*/seed-*/results.json")',
        'policy = folder / f"iteration-{t}" / "policy"',
        'for file in folder.glob("iteration-*/scores.json"):',
        'lines = (run / "metrics.jsonl").read_text()',
        'lock = FileLock(folder / ".lock")',
    ],
)
def test_a_name_in_another_place_is_found(tmp_path: Path, line: str) -> None:
    place = tmp_path / "spac_repro" / "publish"
    place.mkdir(parents=True)
    (place / "page.py").write_text(f"x = 1\n{line}\n")
    assert elsewhere(tmp_path) == {"spac_repro/publish/page.py": [line]}
    (tmp_path / "spac_repro" / "runs").mkdir()
    (place / "page.py").rename(tmp_path / "spac_repro" / "runs" / "folder.py")
    assert elsewhere(tmp_path) == {}


def test_what_is_no_file_of_a_run_is_not() -> None:
    assert named('head = f"iteration {t}"\nfile = folder / f"results.{suffix}"\nsweep = folder / "sweep.json"') == []
