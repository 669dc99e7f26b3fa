"""Check what was read against a pydantic model; report the first problem in one line."""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from spac_repro.documents.errors import one_line
from spac_repro.documents.location import KeyPath, Source
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], value: Any, source: Source, *, missing_key_remedy: str = "", remedy: str = "") -> Model:
    """Check a value against a model and return the model.

    A number in the place of text becomes text, exactly as it was written: commits and versions may look like numbers.

    Args:
        model: The pydantic model of a valid document.
        value: The plain values that were read.
        source: Where they were read from; it makes the errors.
        missing_key_remedy: What to do where a key is missing.
        remedy: What to do about any other problem.

    Raises:
        UserError: The first problem, with its place. A misspelt key is reported before the key that is missing for it.
    """
    if not isinstance(value, Mapping):
        raise source.error((), f"must hold the keys {', '.join(_keys(model))}", missing_key_remedy or remedy)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        texts = dict(_numbers_as_text(model, error, source))
        if not texts:
            raise first_error(model, error, source, missing_key_remedy=missing_key_remedy, remedy=remedy) from None
    try:
        return model.model_validate(_replace(value, texts))
    except ValidationError as error:
        raise first_error(model, error, source, missing_key_remedy=missing_key_remedy, remedy=remedy) from None


def first_error(
    model: type[BaseModel], error: ValidationError, source: Source, *, missing_key_remedy: str = "", remedy: str = ""
) -> UserError:
    """Turn the first problem of a pydantic error into an error of one line. For the arguments, see `validate`."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path, parent = _resolve(model, first["loc"])
    if first["type"] == "extra_forbidden":
        near = did_you_mean(str(path[-1]), _keys(parent))
        return source.error(path, f"unknown key{near}", remedy or ("" if near else f"the keys here are {', '.join(_keys(parent))}"))
    if first["type"] == "missing":
        return source.error(path, "missing", missing_key_remedy or remedy)
    given = first["input"]
    shown = "" if isinstance(given, Mapping | Sequence) and not isinstance(given, str) else f" (given {one_line(repr(given), 60)})"
    return source.error(path, f"{one_line(first['msg']).removeprefix('Value error, ')}{shown}", remedy)


def _numbers_as_text(model: type[BaseModel], error: ValidationError, source: Source) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the path and the literal of each number in the place of text."""
    for problem in error.errors(include_url=False):
        if problem["type"] == "string_type":
            path, _ = _resolve(model, problem["loc"])
            literal = source.literal(path)
            if literal is not None:
                yield path, literal


def _replace(value: Any, texts: Mapping[tuple[str | int, ...], str], path: tuple[str | int, ...] = ()) -> Any:
    """Copy a tree of values, with the values at the paths in `texts` replaced."""
    if path in texts:
        return texts[path]
    if isinstance(value, Mapping):
        return {key: _replace(inner, texts, (*path, key)) for key, inner in value.items()}
    return [_replace(inner, texts, (*path, i)) for i, inner in enumerate(value)] if isinstance(value, list) else value


def _resolve(annotation: Any, location: KeyPath) -> tuple[tuple[str | int, ...], Any]:
    """Return the path of an error's location in the document, and the type that contains its last part.

    A pydantic location also names the member of a union that was tried, which is no level of the document.
    """
    path: list[str | int] = []
    parent = None
    for part in location:
        annotation = unwrap_optional(annotation)
        if get_origin(annotation) in (Union, UnionType):
            annotation = _union_member(annotation, part)
        elif part != "[key]":
            path.append(part)
            parent, annotation = annotation, _child_type(annotation, part)
    return tuple(path), parent


def unwrap_optional(annotation: Any) -> Any:
    """Return `X` for `X | None` and for `Annotated[X, …]`, and any other annotation as it is."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            if len(members) > 1:
                return annotation
            (annotation,) = members
        else:
            return annotation


def _union_member(union: Any, name: str | int) -> Any:
    """Return the member of a union with this class name or with this value of its discriminator."""
    for member in map(unwrap_optional, get_args(union)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            values = [value for field in member.model_fields.values() if _is_literal(field) for value in get_args(field.annotation)]
            if name in (member.__name__, *values):
                return member
    return None


def _is_literal(field: Any) -> bool:
    return get_origin(field.annotation) is Literal


def _child_type(annotation: Any, part: str | int) -> Any:
    """Return the type of the value under a key or at a position."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return next((field.annotation for name, field in annotation.model_fields.items() if part == (field.alias or name)), None)
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if get_origin(annotation) in (list, tuple, Sequence) and arguments else None


def _keys(annotation: Any) -> list[str]:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    return [field.alias or name for name, field in annotation.model_fields.items()]
