"""`prefetch`: everything of a recipe that comes from the hub, into one folder, for machines that have no internet.

CACHE/                what the hub's libraries keep (HF_HOME): models by revision, data sets as prepared caches
CACHE/prefetch.json   what was fetched, and the hash of every file; a job verifies it before it trains
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.progress import Progress
from spac_repro.recipe import Run
from spac_repro.runs import files as runs

SCHEMA = 1
MANIFEST = "prefetch.json"


def prefetch(run: Run, cache: Path, *, progress: Progress) -> dict[str, Any]:
    """Fetch what a run needs, and return what the manifest holds. What an earlier call fetched is kept and not fetched again.

    Must come before anything imports the hub's libraries: they look for their folders once.

    Raises:
        UnfitEnvironmentError: the hub is out of reach, or the folder cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{cache} cannot be made: {error.strerror}; choose another folder with --cache") from None
    os.environ |= {"HF_HOME": str(cache.resolve()), "HF_HUB_DISABLE_XET": "1"}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)
    with runs.explain_disk_errors(cache):
        fetched = _fetch(run, progress)
        progress.start_stage("hashes")
        known = runs.read_json(cache / MANIFEST)["fetched"] if (cache / MANIFEST).exists() else []
        everything = [*(item for item in known if item not in fetched), *fetched]
        hashes = {str(file.relative_to(cache)): runs.sha256_file(file) for file in _files(cache)}
        manifest = {"schema": SCHEMA, "fetched": everything, "files": hashes}
        runs.write_json(cache / MANIFEST, manifest)
    return manifest


def verify(cache: Path) -> int:
    """Hold the cache against its manifest; how many files that were.

    Raises:
        UnfitEnvironmentError: there is no manifest, or a file is missing or another.
    """
    if not (cache / MANIFEST).exists():
        raise UnfitEnvironmentError(f"{cache} has no {MANIFEST}; fill it with `spac-repro prefetch --recipe NAME --cache {cache}`")
    files = runs.read_json(cache / MANIFEST)["files"]
    for name, digest in files.items():
        file = cache / name
        if not file.exists() or runs.sha256_file(file) != digest:
            what = "is missing" if not file.exists() else "is not what was fetched"
            raise UnfitEnvironmentError(f"{file} {what}; remove it and repeat `spac-repro prefetch --recipe NAME --cache {cache}`")
    return len(files)


def _fetch(run: Run, progress: Progress) -> list[dict[str, Any]]:
    recipe, fetched = run.recipe, []
    if recipe.policy.source == "hub":
        from spac_repro.data import hub

        progress.start_stage(f"model {recipe.policy.name}")
        hub.snapshot(recipe.policy.name, recipe.policy.revision)
        fetched.append({"model": recipe.policy.name, "revision": recipe.policy.revision})
    if recipe.data.source == "hub" and recipe.data.name is not None:
        from spac_repro.data import preferences

        progress.start_stage(f"preferences {recipe.data.name}")
        preferences.read_preferences(recipe.data.name, revision=recipe.data.revision, limit=1)
        fetched.append({"preferences": recipe.data.name, "revision": recipe.data.revision})
    if recipe.evaluation.suite.asks:
        from spac_repro.evaluation.leaderboard import scoring

        for task in scoring.chosen_tasks(recipe.evaluation.suite, recipe.evaluation.tasks):
            if task.hub is not None:
                progress.start_stage(f"questions {task.name}")
                task.from_hub()
                fetched.append({"questions": task.name, "data_set": task.hub.data_set})
    if not fetched:
        raise UserError(f"recipe {recipe.name} needs nothing from the hub; leave `cache` out of the cluster profile")
    return fetched


def _files(cache: Path) -> Iterator[Path]:
    """What was fetched: no links (a model's files are links to what they hold), no locks, no manifest of ours, no logs."""
    for file in sorted(cache.rglob("*")):
        passing = ".locks" in file.parts or file.suffix in (".lock", ".incomplete") or "logs" in file.relative_to(cache).parts[:2]
        if file.is_file() and not file.is_symlink() and not passing and file.name != MANIFEST:
            yield file
