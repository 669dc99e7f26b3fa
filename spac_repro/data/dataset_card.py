"""The card of a clone of a hub data set: README.md names its configurations, and which files each of their splits has."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.text import read_text
from spac_repro.errors import UserError

CARD = "README.md"
MAX_BYTES = 1 << 22
DEFAULT = "default"  # the configuration that is taken where none is named

Splits = dict[str, list[Path]]


def configurations(folder: Path) -> dict[str, Splits]:
    """Read the files of every split of every configuration; there are none where the folder has no card that names any.

    The configuration that the card marks as its default is also there as `default`.

    Raises:
        UserError: the card cannot be read, or names a file that is missing or lies outside the folder.
    """
    card = folder / CARD
    if not card.is_file():
        return {}
    stated = _metadata(card)
    if not stated.get("configs"):
        return {}
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs

    try:
        configs = MetadataConfigs({name: values for name, values in _configs(stated).items() if values.get("data_files")})
        if not all(isinstance(name, str) for name in configs):
            raise ValueError("a config_name is not text")
        default = configs.get_default_config_name()
        patterns = {name: sanitize_patterns(values["data_files"]) for name, values in configs.items()}
        roots = {name: _inside(folder, str(values.get("data_dir", "."))) for name, values in configs.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise user_error(str(card), f"its configs cannot be read ({one_line(error, 120)})", remedy="name one file") from None
    found = {
        name: {split: [path for each in globs for path in _files(roots[name], each, card)] for split, globs in splits.items()}
        for name, splits in patterns.items()
    }
    return {**found, DEFAULT: found[default]} if default else found


def _metadata(card: Path) -> Mapping[str, Any]:
    """The YAML at the head of a card, between two lines `---`."""
    import yaml

    lines = read_text(card, max_bytes=MAX_BYTES).splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return {}
    text = "\n".join(lines[1 : lines.index("---", 1)])
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # small text could become a large tree
            raise UserError(f"{card}: its metadata has aliases; name one file instead of the folder")
        metadata = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise user_error(str(card), f"its metadata is no YAML ({one_line(error, 120)})", remedy="name one file") from None
    return metadata if isinstance(metadata, dict) else {}


def _configs(stated: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    return dict(MetadataConfigs.from_dataset_card_data(DatasetCardData(configs=stated["configs"])))


def _inside(folder: Path, relative: str) -> Path:
    """A path that a card gives relative to its folder.

    Raises:
        ValueError: it is a URL, or leads out of the folder.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "://" in relative or "::" in relative:
        raise ValueError(f"{one_line(relative, 60)} lies outside the folder")
    return folder / path


def _files(root: Path, pattern: str, card: Path) -> list[Path]:
    try:
        where = _inside(root, pattern).relative_to(root)
        found = sorted(path for path in root.glob(str(where)) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise user_error(str(card), f"its configs cannot be read ({one_line(error, 120)})", remedy="name one file") from None
    if not found:
        raise user_error(str(card), f"it names {one_line(pattern, 60)}, and there is no such file", remedy="clone it again")
    return found
