"""Where a run's settings come from, what it recorded, and the command that repeats it."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from spac_repro import recipes
from spac_repro.publish.groups import RunView, said


def settings(view: RunView) -> Iterator[dict[str, str]]:
    """Every setting with its value, where it comes from, and why."""
    parts = {key: value for key, value in view.settings.items() if key not in ("method", "name")}
    for group, values in parts.items():
        if not isinstance(values, dict):
            yield _setting(view, group, values)
            continue
        for key in recipes.leaf_keys(values):
            node: Any = values
            for part in key.split("."):
                node = node[part]
            yield _setting(view, f"{group}.{key}", node)


def facts(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of what was recorded: dotted key and value, in a line."""
    for key, value in sorted(tree.items()):
        if isinstance(value, dict) and value:
            yield from facts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", said(value)


def command(view: RunView) -> str:
    """The command that made a run, as far as its manifest tells."""
    its = view.manifest
    words = ["spac-repro", "train", "--recipe", its.recipe, "--method", its.method, "--seed", str(its.seed)]
    for source in its.provenance.values():
        if source.mark == "set":
            words += ["--set", source.why.removeprefix("--set ")]
    if view.settings.get("data", {}).get("source") == "file":
        words += ["--preferences", "FILE"]
    return shlex.join(words)


def _setting(view: RunView, key: str, value: Any) -> dict[str, str]:
    source = view.manifest.provenance.get(key)
    return {"key": key, "value": said(value), "mark": source.mark if source else "", "why": source.why if source else ""}
