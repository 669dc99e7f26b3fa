"""One start for many runs: iteration 0 depends on the recipe and the seed, not on the method, so a sweep computes it once."""

import os
import shutil
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError
from spac_repro.optim import metrics
from spac_repro.recipe import Run, start_settings
from spac_repro.runs import files


def check(other: Path, run: Run, manifest: dict[str, Any]) -> None:
    """See that iteration 0 of another run is, bit for bit, what this run would compute.

    Raises:
        UserError: there is no finished start in that folder, or it is one of other settings, seed, inputs or environment.
    """
    if not all((other / file).exists() for file in ("manifest.json", "iteration-0/scores.json", "iteration-0/policy")):
        raise UserError(f"{other} has no finished start; make one there with this command, --until 0 and --out {other}")
    there = files.read_json(other / "manifest.json")
    if there["segments"]:
        raise UserError(f"{other} was carried out in more than one environment; its start cannot be shared")
    ours = {"seed": run.seed, "settings": run.start_settings(), **{part: manifest[part] for part in ("inputs", "environment")}}
    theirs = {**{part: there[part] for part in ("seed", "inputs", "environment")}, "settings": start_settings(there["settings"])}
    for key, old, new in files.differences(theirs, ours):
        raise UserError(f"the start of {other} is not this run's: {key} is {old!r} there and {new!r} here; leave --start-from out")


def share(other: Path, folder: Path, card: str) -> None:
    """Link iteration 0 of another run into a run folder, with a model card of its own; the policy says that all is there."""
    source, target = other / "iteration-0", folder / "iteration-0"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("gold.json", "heldout.parquet", "samples.json", "scores.json"):
        if (source / name).exists() and not (target / name).exists():
            _link(source / name, target / name)
    lines = [line for line in metrics.read(other) if line["iteration"] == 0]
    files.write_bytes(folder / "metrics.jsonl", b"".join(map(metrics.encode, lines)))
    with files.new_folder(target / "policy") as policy:
        for file in (source / "policy").iterdir():
            if file.name != "README.md":
                _link(file, policy / file.name)
        files.write_bytes(policy / "README.md", card.encode())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
