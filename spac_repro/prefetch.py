"""`prefetch`: download everything a recipe needs from the hub into one folder, for machines without internet.

CACHE/                the cache of the hub's libraries (HF_HOME): models by revision, prepared data sets
CACHE/prefetch.json   what was downloaded, with the hash of every file; a job verifies it before it trains
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.progress import Progress
from spac_repro.recipe import Run
from spac_repro.runs import files as run_files

SCHEMA = 1
MANIFEST = "prefetch.json"


def prefetch(run: Run, cache: Path, *, progress: Progress) -> dict[str, Any]:
    """Download what a run needs. The result of an earlier call is kept and not downloaded again.

    Must be called before anything imports the hub's libraries: they read HF_HOME only once.

    Args:
        run: the recipe.
        cache: the folder to fill; it is created.
        progress: where to report.

    Returns:
        The content of the cache's manifest.

    Raises:
        UnfitEnvironmentError: the hub cannot be reached, or the folder cannot be written.
        UserError: the folder cannot be created, or the recipe needs nothing from the hub.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{cache} cannot be created: {error.strerror}; choose another folder with --cache") from None
    os.environ |= {"HF_HOME": str(cache.resolve()), "HF_HUB_DISABLE_XET": "1"}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)
    with run_files.explain_disk_errors(cache):
        fetched = _fetch(run, progress)
        progress.start_stage("hashes")
        earlier = run_files.read_json(cache / MANIFEST)["fetched"] if (cache / MANIFEST).exists() else []
        everything = [*(item for item in earlier if item not in fetched), *fetched]
        hashes = {str(file.relative_to(cache)): run_files.sha256_file(file) for file in _files(cache)}
        manifest = {"schema": SCHEMA, "fetched": everything, "files": hashes}
        run_files.write_json(cache / MANIFEST, manifest)
    return manifest


def verify(cache: Path) -> int:
    """Compare the files of a cache with the hashes in its manifest.

    Returns:
        The number of files.

    Raises:
        UnfitEnvironmentError: there is no manifest, or a file is missing or has another hash.
    """
    if not (cache / MANIFEST).exists():
        raise UnfitEnvironmentError(f"{cache} has no {MANIFEST}; fill it with `spac-repro prefetch --recipe NAME --cache {cache}`")
    files = run_files.read_json(cache / MANIFEST)["files"]
    for name, digest in files.items():
        file = cache / name
        if not file.exists() or run_files.sha256_file(file) != digest:
            problem = "is missing" if not file.exists() else "is not what was downloaded"
            raise UnfitEnvironmentError(f"{cache}: {name} {problem}; remove it and repeat `spac-repro prefetch` with this --cache")
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
        reading = preferences.read(recipe.data.name, revision=recipe.data.revision, limit=recipe.data.max_pairs)
        for line in reading.summary.messages():
            progress.message(line)
        fetched.append({"preferences": recipe.data.name, "revision": recipe.data.revision})
    if recipe.evaluation.suite.has_tasks:
        from spac_repro.evaluation.leaderboard import scoring

        for task in scoring.select_tasks(recipe.evaluation.suite, recipe.evaluation.tasks):
            if task.hub is not None:
                progress.start_stage(f"questions {task.name}")
                task.questions_from_hub()
                fetched.append({"questions": task.name, "data_set": task.hub.dataset})
    if not fetched:
        raise UserError(f"recipe {recipe.name} needs nothing from the hub; leave `cache` out of the cluster profile")
    return fetched


def _files(cache: Path) -> Iterator[Path]:
    """The downloaded files. Links (the hub's model files point to blobs), locks, logs and the manifest are left out."""
    for file in sorted(cache.rglob("*")):
        temporary = ".locks" in file.parts or file.suffix in (".lock", ".incomplete") or "logs" in file.relative_to(cache).parts[:2]
        if file.is_file() and not file.is_symlink() and not temporary and file.name != MANIFEST:
            yield file
