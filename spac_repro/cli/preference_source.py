"""`--preferences` and its like: whether a source is local, and the settings that it stands for."""

from collections.abc import Sequence
from pathlib import Path


def is_local(source: str) -> bool:
    """Whether preferences are a file or a folder. A data set of the hub is OWNER/NAME; what looks like a path is one."""
    if source.startswith((".", "/", "~")) or Path(source).suffix != "":
        return True
    from spac_repro.data.row_sources import local_path

    return local_path(source)[0].exists()  # of FOLDER:SPLIT, the folder


def overrides(settings: Sequence[str] | None, source: str | None, max_pairs: int | None) -> list[str]:
    """Combine --set with the settings that a source and --max-pairs stand for, since those identify a run as well."""
    local = ["data.source=file", "data.name=null", "data.revision=null"] if source and is_local(source) else []
    return [*local, *([f"data.max_pairs={max_pairs}"] if max_pairs else []), *(settings or ())]
