"""The disk space that a run needs."""

import shutil
from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest folder above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def check(folder: Path, needed: int) -> None:
    """Check that a run fits on the disk, before anything is begun.

    Args:
        folder: the run folder; what it holds already counts as a part of what is needed.
        needed: bytes of all checkpoints and iterates.

    Raises:
        UnfitEnvironmentError: too little space is free.
    """
    existing = nearest_existing(folder)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    free, missing = shutil.disk_usage(existing).free, max(0, needed - held)
    if missing > free:
        raise UnfitEnvironmentError(
            f"{folder}: checkpoints and iterates take up to {size(needed)}, of which {size(missing)} are still to be written, and "
            f"{size(free)} are free; make room, or choose another disk with --out"
        )


def size(count: float) -> str:
    """A number of bytes, with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
