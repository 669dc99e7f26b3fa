"""Read a recipe: one that ships with the package, by its name, or a file; with `key=value` overrides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from spac_repro import methods, recipe
from spac_repro.documents import packaged, yaml_subset
from spac_repro.documents.defaults import fill_defaults
from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.location import KeyPath, dotted_key
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.documents.validation import unwrap_optional, validate
from spac_repro.documents.yaml_subset import Document
from spac_repro.errors import UserError
from spac_repro.recipe import MARKS, Provenance, Run
from spac_repro.renamed_settings import new_name

EXAMPLE = "see `spac-repro recipes show tiny` for a complete recipe"  # the remedy where a key is missing


def names() -> list[str]:
    """List the recipes that ship with the package."""
    return packaged.names("recipes")


def load(name: str, *, method: str = "spac", seed: int = 0, overrides: Sequence[str] = ()) -> Run:
    """Read a recipe, apply overrides, and choose method and seed.

    Args:
        name: The name of a recipe of the package, or the path of a YAML file.
        method: The name of a method that the recipe supports.
        seed: The run's seed.
        overrides: Overrides `key=value` with dotted keys, as in `--set`.

    Raises:
        UserError: The recipe, the method or a key is unknown (with the closest name), or a value is not valid.
    """
    methods.get(method)
    source = _RecipeSource(packaged.read("recipe", "recipes", name))
    tree = source.file.value
    if not isinstance(tree, dict):
        raise source.error((), "not a recipe: it must be a mapping of settings", EXAMPLE)
    written = _read_settings(source, tree, ())
    values = fill_defaults(recipe.Recipe, written)
    for key in {*leaf_keys(values)} - {*leaf_keys(written)}:
        source.provenance[key] = Provenance("default")
    for override in overrides:
        _apply_override(source, values, override, method)
    checked = validate(recipe.Recipe, values, source, missing_key_remedy=EXAMPLE)
    if getattr(checked.methods, method) is None:
        supported = ", ".join(checked.methods.model_dump()) or "none"
        raise UserError(f"{source.file.name} has no settings for method {method}; it supports {supported}")
    return Run(checked, method, seed, source.provenance)


def leaf_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every value in a tree of settings."""
    for name, node in values.items():
        if isinstance(node, dict):
            yield from leaf_keys(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@dataclass(frozen=True)
class _RecipeSource:
    """The `Source` of a recipe's settings: its file, and the command line for overrides."""

    file: Document
    overrides: dict[str, Document] = field(default_factory=dict)  # by dotted key
    provenance: dict[str, Provenance] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)  # keys that an override's group lacks, with the override that began it

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        """Make an error about a setting. It names the override instead of the file where exactly one override can be the cause."""
        key = dotted_key(path)
        candidates = [document for name, document in self.overrides.items() if not key or f"{name}.".startswith(f"{key}.")]
        if len(candidates) == 1:
            return user_error(candidates[0].name, problem, key=key, remedy=remedy)
        if key in self.begun:
            return user_error(self.begun[key], "missing", key=key, remedy=f"add --set {key}=…")
        return self.file.error(path, problem, remedy)

    def literal(self, path: KeyPath) -> str | None:
        """Return the number at a setting as it was written; None for any other value."""
        override = self.overrides.get(dotted_key(path))
        return override.literal(()) if override else self.file.literal((*path, "value"))


def _read_settings(source: _RecipeSource, tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return the tree of plain values, and record the provenance of each in `source`."""
    values: dict[str, Any] = {}
    for name, node in tree.items():
        here = (*path, name)
        if new := new_name(dotted_key(here)):
            raise source.error(here, f"renamed to {new} in version 0.2")
        if isinstance(node, dict) and "value" in node:
            source.provenance[dotted_key(here)] = _read_provenance(source, here, node)
            values[name] = node["value"]
        elif isinstance(node, dict):
            values[name] = _read_settings(source, node, here)
        elif dotted_key(here) in ("name", "summary") or node is None:
            values[name] = node
        else:
            shown = one_line(node, 60)
            raise source.error(here, "no provenance", f"write it as {{value: {shown}, from: assumed, why: …}}")
    return values


def _read_provenance(source: _RecipeSource, path: tuple[str, ...], node: Mapping[str, Any]) -> Provenance:
    for extra in node.keys() - {"value", "from", "why"}:
        raise source.error((*path, extra), "unknown key", "a setting has value, from and why")
    mark = node.get("from")
    if mark not in MARKS:
        raise source.error(path, f"`from` is {one_line(repr(mark), 60)}; it must be one of {', '.join(MARKS)}")
    return Provenance(mark, str(node.get("why", "")))


def _begin_group(source: _RecipeSource, values: dict[str, Any], path: Sequence[str], where: str) -> None:
    """Begin an optional group of settings that the recipe leaves out, such as `policy.adapter`; any other one is left as it is.

    Args:
        source: Gets the provenance of the group's defaults.
        values: The settings that the group belongs to.
        path: The parts of the group's dotted key.
        where: The override that begins it.
    """
    field: Any = None
    model: Any = recipe.Recipe
    for name in path:
        field = model.model_fields.get(name)
        model = unwrap_optional(field.annotation) if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return
    if field is None or field.is_required():
        return
    defaults = fill_defaults(model, {})
    values[path[-1]] = dict.fromkeys(model.model_fields) | defaults
    source.provenance.update({".".join((*path, name)): Provenance("default") for name in defaults})
    source.begun.update({".".join((*path, name)): where for name in model.model_fields if name not in defaults})


def _apply_override(source: _RecipeSource, values: dict[str, Any], override: str, method: str) -> None:
    """Apply `a.b=value`; `methods.*` stands for the run's own method. A group can be left out: `policy.architecture=null`."""
    key, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals:
        raise user_error(where, "write key=value, for example --set training.epochs_per_iteration=1")
    if key.startswith("methods.*."):
        key = key.replace("*", method, 1)
    *groups, leaf = key.split(".")
    node: Any = values
    for number, group in enumerate(groups, 1):
        if isinstance(node, dict) and node.get(group) is None:
            _begin_group(source, node, groups[:number], where)
        node = node.get(group) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or key in ("name", "summary"):
        raise _unknown_key(where, key, values)
    document = yaml_subset.parse(text, where, key_prefix=(*groups, leaf), show_lines=False)
    if isinstance(node[leaf], dict):  # a whole group can only be left out
        if document.value is not None:
            raise _unknown_key(where, key, values)
        for inner in [name for name in source.provenance if name.startswith(f"{key}.")]:
            del source.provenance[inner]
    node[leaf] = document.value
    source.overrides[key] = document
    source.provenance[key] = Provenance("set", where)


def _unknown_key(where: str, key: str, values: Mapping[str, Any]) -> UserError:
    new = new_name(key)
    near = f" (renamed to {new} in version 0.2)" if new else did_you_mean(key, leaf_keys(values))
    return user_error(where, f"unknown key {one_line(key, 60)!r}{near}", remedy="`spac-repro recipes show` lists the keys")
