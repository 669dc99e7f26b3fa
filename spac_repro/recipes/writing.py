"""Write a recipe as a file of one's own: every setting with its value, its source and its reason."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError
from spac_repro.recipe import MARKS, RECIPE_NAME, Provenance, Run

DEFAULT = Provenance("assumed", "the neutral value of a setting that the recipe leaves out")
OWN_KEYS = ("name", "summary")  # they describe the recipe, and have no source


def as_yaml(run: Run, name: str | None = None) -> str:
    """Write the recipe of a run as a complete recipe file, with the run's overrides.

    Marks that no file may use (an override, a default) become `assumed`, with the reason that says so. A suite of the user's own
    keeps its folder.

    Args:
        run: the recipe, with its overrides.
        name: the new recipe's name; None: that of the run's.

    Raises:
        UserError: the name is no name.
    """
    if name is not None and not RECIPE_NAME.fullmatch(name):
        raise UserError(f"--name {one_line(name, 60)}: a name has letters, digits, `_`, `.` and `-`; folders are named after it")
    values = run.recipe.model_dump(mode="json")
    if (folder := run.recipe.evaluation.suite.folder) is not None:
        values["evaluation"]["suite"] = str(folder)
    values["name"] = name or values["name"]
    lines: list[str] = []
    for name, node in values.items():
        if isinstance(node, dict):
            lines += ["", f"{name}:", *_group(run.provenance, node, name)]
        elif name in OWN_KEYS:
            lines.append(f"{name}: {_json(node)}")
        else:
            lines.append(f"{name}: {_setting(run.provenance.get(name), node)}")
    return "\n".join(lines) + "\n"


def _group(provenance: Mapping[str, Provenance], values: Mapping[str, Any], path: str) -> Iterator[str]:
    indent = "  " * (path.count(".") + 1)
    for name, node in values.items():
        key = f"{path}.{name}"
        if isinstance(node, dict):
            yield f"{indent}{name}:"
            yield from _group(provenance, node, key)
        else:
            yield f"{indent}{name}: {_setting(provenance.get(key), node)}"


def _setting(source: Provenance | None, value: Any) -> str:
    """A setting on one line. JSON's texts and numbers are YAML's."""
    if value is None and (source is None or source.mark not in MARKS):
        return "null"
    if source is None or source.mark == "default":
        source = DEFAULT
    elif source.mark not in MARKS:
        source = Provenance("assumed", source.why)
    why = f", why: {_json(source.why)}" if source.why else ""
    return f"{{value: {_json(value)}, from: {source.mark}{why}}}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
