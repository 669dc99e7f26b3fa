"""What was read, held against the model that says what may stand there."""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from spac_repro.documents.errors import one_line
from spac_repro.documents.source import KeyPath, Source
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], value: Any, source: Source, *, missing_key_remedy: str = "", remedy: str = "") -> Model:
    """The model made of a value. `missing_key_remedy` is the remedy where a key is missing, `remedy` the one for anything else.

    A number that stands where text is wanted is the text as it was written: commits and versions may look like numbers.

    Raises:
        UserError: the first thing that is wrong, with its source. A misspelt key comes before the one that it leaves missing.
    """
    if not isinstance(value, Mapping):
        raise source.error((), f"must hold the keys {', '.join(_keys(model))}", missing_key_remedy or remedy)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        texts = dict(_texts(model, error, source))
        if not texts:
            raise first_error(model, error, source, missing_key_remedy=missing_key_remedy, remedy=remedy) from None
    try:
        return model.model_validate(_with_texts(value, texts))
    except ValidationError as error:
        raise first_error(model, error, source, missing_key_remedy=missing_key_remedy, remedy=remedy) from None


def first_error(
    model: type[BaseModel], error: ValidationError, source: Source, *, missing_key_remedy: str = "", remedy: str = ""
) -> UserError:
    """The first thing that is wrong, in one line."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path, holder = _follow(model, first["loc"])
    if first["type"] == "extra_forbidden":
        near = did_you_mean(str(path[-1]), _keys(holder))
        return source.error(path, f"unknown key{near}", remedy or ("" if near else f"the keys here are {', '.join(_keys(holder))}"))
    if first["type"] == "missing":
        return source.error(path, "missing", missing_key_remedy or remedy)
    given = first["input"]
    shown = "" if isinstance(given, Mapping | Sequence) and not isinstance(given, str) else f" (given {one_line(repr(given), 60)})"
    return source.error(path, f"{one_line(first['msg']).removeprefix('Value error, ')}{shown}", remedy)


def _texts(model: type[BaseModel], error: ValidationError, source: Source) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The numbers that stand where text is wanted, as they were written."""
    for problem in error.errors(include_url=False):
        if problem["type"] == "string_type":
            path, _ = _follow(model, problem["loc"])
            literal = source.literal(path)
            if literal is not None:
                yield path, literal


def _with_texts(value: Any, texts: Mapping[tuple[str | int, ...], str], path: tuple[str | int, ...] = ()) -> Any:
    if path in texts:
        return texts[path]
    if isinstance(value, Mapping):
        return {key: _with_texts(inner, texts, (*path, key)) for key, inner in value.items()}
    return [_with_texts(inner, texts, (*path, i)) for i, inner in enumerate(value)] if isinstance(value, list) else value


def _follow(kind: Any, location: KeyPath) -> tuple[tuple[str | int, ...], Any]:
    """The keys and positions of an error's location, and the kind of what holds the last of them.

    A location also names the member of a union that was tried, which is no level of the document.
    """
    path: list[str | int] = []
    holder = None
    for part in location:
        kind = bare(kind)
        if get_origin(kind) in (Union, UnionType):
            kind = _member(kind, part)
        elif part != "[key]":
            path.append(part)
            holder, kind = kind, _below(kind, part)
    return tuple(path), holder


def bare(kind: Any) -> Any:
    """What an annotation is about: `X` of `X | None` and of `Annotated[X, …]`."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, UnionType) and len(some := [x for x in get_args(kind) if x is not type(None)]) == 1:
            (kind,) = some
        else:
            return kind


def _member(union: Any, name: str | int) -> Any:
    """The member of a union that an error's location calls by its name or by its discriminator's value."""
    for member in map(bare, get_args(union)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            values = [value for field in member.model_fields.values() if _is_literal(field) for value in get_args(field.annotation)]
            if name in (member.__name__, *values):
                return member
    return None


def _is_literal(field: Any) -> bool:
    return get_origin(field.annotation) is Literal


def _below(kind: Any, part: str | int) -> Any:
    """The kind of what stands under a key or at a position."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return next((field.annotation for name, field in kind.model_fields.items() if part == (field.alias or name)), None)
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return arguments[1]
    return arguments[0] if get_origin(kind) in (list, tuple, Sequence) and arguments else None


def _keys(kind: Any) -> list[str]:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [field.alias or name for name, field in kind.model_fields.items()]
