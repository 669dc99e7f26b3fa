"""The recipes that ship with the package, and how a recipe is read: by name or file, with `key=value` overrides."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from spac_repro import methods
from spac_repro.documents.names import did_you_mean
from spac_repro.errors import UserError
from spac_repro.recipe import MARKS, Provenance, Recipe, Run


def names() -> list[str]:
    """The recipes that ship with the package."""
    folder = resources.files("spac_repro") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(name: str, *, method: str = "spac", seed: int = 0, overrides: Sequence[str] = ()) -> Run:
    """Read a recipe by name or file, apply `key=value` overrides, and choose method and seed.

    Raises:
        UserError: an unknown recipe, method or key (with the nearest name), or a value out of range.
    """
    methods.get(method)
    where, text = _read(name)
    values, provenance = _parse(where, text)
    for override in overrides:
        _override(values, provenance, override, method)
    recipe = _validate(where, values)
    if getattr(recipe.methods, method) is None:
        supported = ", ".join(recipe.methods.model_dump())
        raise UserError(f"{where} has no settings for method {method}; it supports {supported}")
    return Run(recipe, method, seed, provenance)


def _read(name: str) -> tuple[str, str]:
    if name in names():
        return f"recipe {name}", (resources.files("spac_repro") / "recipes" / f"{name}.yaml").read_text()
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return str(path), path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from None
    raise UserError(f"unknown recipe {name!r}{did_you_mean(name, names())}; the recipes are {', '.join(names())}, or a YAML file")


def _parse(where: str, text: str) -> tuple[dict[str, Any], dict[str, Provenance]]:
    """The plain tree of values, and the provenance of each leaf."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise UserError(f"{where}{line}: not YAML ({problem}); see `spac-repro recipes show tiny`") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where}: not a recipe: a mapping of settings is wanted; see `spac-repro recipes show tiny`")
    provenance: dict[str, Provenance] = {}
    values = _strip(where, tree, "", provenance)
    return values, provenance


def _strip(where: str, tree: Mapping[str, Any], prefix: str, provenance: dict[str, Provenance]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, node in tree.items():
        key = f"{prefix}{name}"
        if isinstance(node, dict) and "value" in node:
            provenance[key] = _provenance(where, key, node)
            values[name] = node["value"]
        elif isinstance(node, dict):
            values[name] = _strip(where, node, f"{key}.", provenance)
        elif key in ("name", "summary") or node is None:
            values[name] = node
        else:
            raise UserError(f"{where}: {key}: no provenance; write it as {{value: {node}, from: assumed, why: …}}")
    return values


def _provenance(where: str, key: str, node: Mapping[str, Any]) -> Provenance:
    if extra := set(node) - {"value", "from", "why"}:
        raise UserError(f"{where}: {key}: unknown key {sorted(extra)[0]!r}; a setting has value, from and why")
    mark = node.get("from")
    if mark not in MARKS:
        raise UserError(f"{where}: {key}: `from` is {mark!r}; it must be one of {', '.join(MARKS)}")
    return Provenance(mark, str(node.get("why", "")))


def _override(values: dict[str, Any], provenance: dict[str, Provenance], override: str, method: str) -> None:
    """Apply `a.b=value`; `objective.` stands for the settings of the run's method."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write key=value, for example --set training.epochs=1")
    if key.startswith("objective."):
        key = f"methods.{method}.{key.removeprefix('objective.')}"
    *groups, leaf = key.split(".")
    node: Any = values
    for group in groups:
        node = node.get(group) if isinstance(node, dict) else None
    if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], dict) or key in ("name", "summary"):
        keys = list(leaves(values))
        raise UserError(f"--set {override}: unknown key {key!r}{did_you_mean(key, keys)}; `spac-repro recipes show` lists the keys")
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: {text!r} is not a value; write a number, a word or null") from None
    provenance[key] = Provenance("set", f"--set {override}")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a tree's values."""
    for name, node in values.items():
        if isinstance(node, dict):
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _validate(where: str, values: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            group: Any = Recipe
            for part in first["loc"][:-1]:
                group = _model_of(group.model_fields[part].annotation)
            raise UserError(
                f"{where}: unknown key {key!r}{did_you_mean(str(first['loc'][-1]), list(group.model_fields))}"
            ) from None
        if first["type"] == "missing":
            raise UserError(f"{where}: {key}: missing; see `spac-repro recipes show tiny` for a complete recipe") from None
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first["input"], dict) else f" (given {first['input']!r})"
        raise UserError(f"{where}: {key or 'recipe'}: {message}{given}") from None


def _model_of(annotation: Any) -> Any:
    """The settings class in `X` or `X | None`."""
    options = getattr(annotation, "__args__", (annotation,))
    return next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
