"""The provenance of a run's settings, and its recorded inputs and environment."""

from collections.abc import Iterator, Mapping
from typing import Any

from spac_repro import recipes
from spac_repro.publish.groups import RunView, format_value


def setting_rows(view: RunView) -> Iterator[dict[str, str]]:
    """Yield every setting with its value, its provenance mark and the reason for its value."""
    parts = {key: value for key, value in view.settings.items() if key not in ("method", "name")}
    for group, values in parts.items():
        if not isinstance(values, dict):
            yield _setting_row(view, group, values)
            continue
        for key in recipes.leaf_keys(values):
            node: Any = values
            for part in key.split("."):
                node = node[part]
            yield _setting_row(view, f"{group}.{key}", node)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of a recorded tree: dotted key, and value in one line."""
    for key, value in sorted(tree.items()):
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", format_value(value)


def _setting_row(view: RunView, key: str, value: Any) -> dict[str, str]:
    source = view.manifest.provenance.get(key)
    return {"key": key, "value": format_value(value), "mark": source.mark if source else "", "why": source.why if source else ""}
