"""The recipes that ship with the package, and how a recipe is read: by name or file, with `key=value` overrides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spac_repro import methods, recipe
from spac_repro.documents import shipped, yaml_subset
from spac_repro.documents.defaults import with_defaults
from spac_repro.documents.message import one_line, refusal
from spac_repro.documents.names import did_you_mean
from spac_repro.documents.place import Path, dotted
from spac_repro.documents.validation import validate
from spac_repro.documents.yaml_subset import Document
from spac_repro.errors import UserError
from spac_repro.recipe import MARKS, Provenance, Run

PATTERN = "see `spac-repro recipes show tiny` for a complete recipe"


def names() -> list[str]:
    """The recipes that ship with the package."""
    return shipped.names("recipes")


def load(name: str, *, method: str = "spac", seed: int = 0, overrides: Sequence[str] = ()) -> Run:
    """Read a recipe by name or file, apply `key=value` overrides, and choose method and seed.

    Raises:
        UserError: an unknown recipe, method or key (with the nearest name), or a value out of range.
    """
    methods.get(method)
    written = _Written(shipped.find("recipe", "recipes", name))
    tree = written.file.value
    if not isinstance(tree, dict):
        raise written.refusal((), "not a recipe: a mapping of settings is wanted", PATTERN)
    given = _settings(written, tree, ())
    values = with_defaults(recipe.Recipe, given)
    for key in {*leaves(values)} - {*leaves(given)}:
        written.provenance[key] = Provenance("default")
    for override in overrides:
        _override(written, values, override, method)
    found = validate(recipe.Recipe, values, written, pattern=PATTERN)
    if getattr(found.methods, method) is None:
        supported = ", ".join(found.methods.model_dump()) or "none"
        raise UserError(f"{written.file.where} has no settings for method {method}; it supports {supported}")
    return Run(found, method, seed, written.provenance)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a tree's values."""
    for name, node in values.items():
        if isinstance(node, dict):
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@dataclass(frozen=True)
class _Written:
    """What a recipe's settings were written in: its file, and the command line for those that it overrides (a Place)."""

    file: Document
    overrides: dict[str, Document] = field(default_factory=dict)  # by dotted key
    provenance: dict[str, Provenance] = field(default_factory=dict)

    def refusal(self, path: Path, problem: str, remedy: str = "") -> UserError:
        """An error about a setting; it names the one override that it can be about, if there is one."""
        key = dotted(path)
        about = [document for name, document in self.overrides.items() if not key or f"{name}.".startswith(f"{key}.")]
        if len(about) == 1:
            return refusal(about[0].where, problem, key=key, remedy=remedy)
        return self.file.refusal(path, problem, remedy)

    def written(self, path: Path) -> str | None:
        """The number at a setting, as it was written."""
        override = self.overrides.get(dotted(path))
        return override.written(()) if override else self.file.written((*path, "value"))


def _settings(written: _Written, tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The plain tree of values; the provenance of each is noted."""
    values: dict[str, Any] = {}
    for name, node in tree.items():
        here = (*path, name)
        if isinstance(node, dict) and "value" in node:
            written.provenance[dotted(here)] = _provenance(written, here, node)
            values[name] = node["value"]
        elif isinstance(node, dict):
            values[name] = _settings(written, node, here)
        elif dotted(here) in ("name", "summary") or node is None:
            values[name] = node
        else:
            shown = one_line(node, 60)
            raise written.refusal(here, "no provenance", f"write it as {{value: {shown}, from: assumed, why: …}}")
    return values


def _provenance(written: _Written, path: tuple[str, ...], node: Mapping[str, Any]) -> Provenance:
    for extra in node.keys() - {"value", "from", "why"}:
        raise written.refusal((*path, extra), "unknown key", "a setting has value, from and why")
    mark = node.get("from")
    if mark not in MARKS:
        raise written.refusal(path, f"`from` is {one_line(repr(mark), 60)}; it must be one of {', '.join(MARKS)}")
    return Provenance(mark, str(node.get("why", "")))


def _override(written: _Written, values: dict[str, Any], override: str, method: str) -> None:
    """Apply `a.b=value`; `objective.` stands for the settings of the run's method."""
    key, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals:
        raise refusal(where, "write key=value, for example --set training.epochs=1")
    if key.startswith("objective."):
        key = f"methods.{method}.{key.removeprefix('objective.')}"
    *groups, leaf = key.split(".")
    node: Any = values
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict) or key in ("name", "summary"):
        near = did_you_mean(key, leaves(values))
        raise refusal(where, f"unknown key {one_line(key, 60)!r}{near}", remedy="`spac-repro recipes show` lists the keys")
    document = yaml_subset.parse(text, where, group=(*groups, leaf), lines=False)
    node[leaf] = document.value
    written.overrides[key] = document
    written.provenance[key] = Provenance("set", where)
