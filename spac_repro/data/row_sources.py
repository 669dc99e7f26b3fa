"""Where rows come from: a file, a folder of files with its splits, a data set that was saved to disk, or the Hugging Face hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spac_repro.data import dataset_card, row_files
from spac_repro.data.columns import READ_COLUMNS
from spac_repro.data.row_files import Record, Records
from spac_repro.documents.errors import one_line, user_error
from spac_repro.errors import UnfitEnvironmentError, UserError

HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:((?P<config>[\w.-]+)/)?(?P<split>[\w.-]+))?", re.ASCII)

# Files of a data set that are no data: what `datasets` writes beside it.
_DESCRIPTIONS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
# Where a split's name stands in a path, as on the hub: NAME-00000-of-00001.parquet, or one of these words.
_SHARD = re.compile(r"(?P<split>[\w.]+(-[A-Za-z_][\w.]*)*)-\d{5}-of-\d{5}\b", re.ASCII)
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def records(source: str, revision: str | None) -> Records:
    """Read the rows of a source: see `preferences.read`.

    Raises:
        UserError: there is no such source, or it has several splits and none is named. The rows raise UserError, too.
        UnfitEnvironmentError: the hub cannot be reached and the data set is not cached.
    """
    path, split = local_path(source)
    with row_files.reading(path):
        is_file, is_folder = path.is_file(), path.is_dir()
    if is_file:
        return row_files.read(path)
    if is_folder:
        return _folder_records(path, split)
    if path.exists():
        raise UserError(f"{source}: a pipe or a device, which cannot be read twice; write its content to a file, and name that")
    name = HUB_NAME.fullmatch(source)
    if name is None or row_files.has_suffix(Path(source)):
        raise UserError(f"{source}: no such file or folder")
    if revision is None:
        raise UserError(f"{source}: no such file or folder; if it is a hub data set, name its revision (a commit hash)")
    return _hub_records(name["name"], name["config"], name["split"] or "train", revision)


def local_path(source: str) -> tuple[Path, str | None]:
    """Split FOLDER:SPLIT, where there is such a folder, and nothing of the whole name."""
    folder, colon, split = source.rpartition(":")
    try:
        if colon and folder and not Path(source).exists() and Path(folder).is_dir():
            return Path(folder), split
    except (OSError, ValueError):  # a name that no file can have
        pass
    return Path(source), None


def _choose(parts: Mapping[str, Any], name: str | None, source: str, config: str = "") -> Any:
    """One of the splits of a source, or of its configurations: the only one, or the one of this name."""
    if not name and len(parts) == 1:
        return next(iter(parts.values()))
    if name and name in parts:
        return parts[name]
    what, form = ("configuration", "CONFIG/SPLIT") if isinstance(next(iter(parts.values())), dict) else ("split", "SPLIT")
    problem = f"has no {what} {one_line(name, 60)}" if name else f"has several {what}s"
    form = f"{config}/{form}" if config else form
    raise user_error(source, problem, remedy=f"write {Path(source).name}:{form}, one of {one_line(', '.join(sorted(parts)), 120)}")


# Folders


def _folder_records(folder: Path, split: str | None) -> Records:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        yield from _saved_rows(folder, split)
        return
    for path in _chosen_files(folder, split):
        yield from row_files.read(path)


def _chosen_files(folder: Path, split: str | None) -> list[Path]:
    """The files of a split: by the card of the data set if it has one, else by the files' names."""
    if configurations := dataset_card.configurations(folder):
        config, _, name = (split or "").rpartition("/")
        of_config = _choose(configurations, config or dataset_card.DEFAULT * (dataset_card.DEFAULT in configurations), str(folder))
        files: list[Path] = _choose(of_config, name, str(folder), config)
        return files
    paths = sorted(path for path in folder.rglob("*") if _is_data(path, folder))
    if not paths:
        raise UserError(f"{folder}: has no preference data ({', '.join(row_files.SUFFIXES)})")
    splits: dict[str | None, list[Path]] = {}
    for path in paths:
        splits.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    unnamed = splits.get(None, [])
    named = {name: files for name, files in splits.items() if name is not None}
    if unnamed and named and split is None:
        raise user_error(
            str(folder),
            f"has files of a split ({', '.join(named)}) and others ({unnamed[0].name})",
            remedy=f"write {folder.name}:SPLIT, or name one file",
        )
    chosen: list[Path] = _choose(named or {"train": unnamed}, split, str(folder))
    return chosen


def _is_data(path: Path, folder: Path) -> bool:
    """Whether a file holds rows: not one that is hidden, and no description of the data set."""
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith((".", "__")) for part in parts)
    return row_files.has_suffix(path) and not hidden and path.name not in _DESCRIPTIONS and path.is_file()


def _split_of(path: Path) -> str | None:
    """The split that a file belongs to by its name, or by that of its folder; None: its path names none."""
    if shard := _SHARD.match(path.name):
        return shard["split"]
    for part in (path.name.split(".")[0], *reversed(path.parts[:-1])):
        words = [_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in _SPLIT_WORDS]
        if words:
            return words[0]
    return None


def _saved_rows(folder: Path, split: str | None) -> Records:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # damage raises many kinds of exceptions; the remedy is the same
        raise UserError(f"{folder}: cannot be read as a saved data set ({one_line(error)}); save it again") from error
    splits = data if isinstance(data, datasets.DatasetDict) else {str(data.split or "train"): data}
    yield from _data_set_rows(_choose({str(name): rows for name, rows in splits.items()}, split, str(folder)), str(folder))


# The hub


def _hub_records(name: str, config: str | None, split: str, revision: str) -> Records:
    import datasets

    at = f"{name} at {revision}"
    try:
        data = datasets.load_dataset(name, *([config] if config else []), revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UserError(f"{at}: the hub has no such data set or revision ({one_line(error)})") from error
    except (ConnectionError, OSError) as error:
        raise UnfitEnvironmentError(
            f"{at}: not cached and cannot be downloaded ({one_line(error)}); on a machine with a "
            f"network, run datasets.load_dataset({name!r}, revision={revision!r}) to fill the cache, or name a local file"
        ) from error
    except Exception as error:
        problem = f"cannot be read as a data set ({one_line(error)})"
        remedy = "write OWNER/NAME:CONFIG/SPLIT" if "onfig" in str(error) else ""
        raise user_error(at, problem, remedy=remedy) from error
    if split not in data:
        raise UserError(f"{at}: has no split {split}; write {name}:SPLIT, one of {', '.join(map(str, data))}")
    yield from _data_set_rows(data[split], f"{name}:{split}")


def _data_set_rows(data: Any, name: str) -> Records:
    from datasets.features.features import require_decoding

    names = tuple(data.column_names)
    columns = [column for column in names if column in READ_COLUMNS]
    for column in columns:  # an Image column would be decoded, and its path may be a URL
        if require_decoding(data.features[column]):
            kind = type(data.features[column]).__name__
            raise UserError(f"{name}: the column {column} holds {kind}, not text; save it as text")
    for number, row in enumerate(data.select_columns(columns), start=1):
        yield Record(f"{name}, row {number}", row, names)
