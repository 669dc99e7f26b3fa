"""JSON as programs write it: strict where Python's reader is lenient, and refused in one line where Python's reader would fail.

Refused are keys that stand twice in an object (Python keeps the last), more than 64 levels, integers of more than 300 digits,
numbers too large for a float, and halves of surrogate pairs. NaN and Infinity are read, because Python writes them; what must be
finite is for a model to say.
"""

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.source import dotted_key
from spac_repro.documents.text import decode_utf8, read_text

MAX_BYTES = 1 << 28  # bytes of a file
MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 300

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # how half a surrogate pair, or a whole one, is written
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class _InvalidJsonError(ValueError):
    """What the callbacks of Python's reader found."""

    def __init__(self, problem: str, key: str = "") -> None:
        super().__init__(problem)
        self.problem, self.key = problem, key


def read(path: Path, kind: type | None = None, *, missing_file_remedy: str = "", remedy: str = "") -> Any:
    """The content of a JSON file; with `kind` (dict or list) it must be that.

    `missing_file_remedy` is the remedy where there is no such file, `remedy` the one where it is not what it should be.

    Raises:
        UserError: it cannot be read, is not JSON, or is of another kind.
    """
    return parse(read_text(path, max_bytes=MAX_BYTES, missing_file_remedy=missing_file_remedy), str(path), kind, remedy=remedy)


def parse(text: str | bytes, where: str, kind: type | None = None, *, line: int | None = None, remedy: str = "") -> Any:
    """The content of a JSON text, which is the whole of `where` or, with `line`, that line of it.

    Raises:
        UserError: it is not JSON, or is of another kind than `kind` (dict or list).
    """
    text = decode_utf8(text, where, line) if isinstance(text, bytes) else text
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float)
        if _SURROGATE_ESCAPE.search(text) or _depth(text) > MAX_DEPTH:
            _check(value)
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg} at column {error.colno})"
        raise user_error(where, problem, line=line or error.lineno, remedy=remedy) from None
    except _InvalidJsonError as error:
        raise user_error(where, error.problem, line=line, key=error.key, remedy=remedy) from None
    except RecursionError:
        raise user_error(where, f"nested more than {MAX_DEPTH} levels deep", line=line, remedy=remedy) from None
    if kind is not None and type(value) is not kind:
        raise user_error(where, f"must be {_KINDS[kind]}, found {json_type(value)}", line=line, remedy=remedy)
    return value


def json_type(value: object) -> str:
    """What JSON calls a value: `an object`, `a list`, …"""
    return "nothing" if value is None else _KINDS.get(type(value), type(value).__name__)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs if len(dict(pairs)) < len(pairs) else ():
        if name in found:
            raise _InvalidJsonError("stands there twice", name)
        found[name] = value
    return dict(pairs)


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise _InvalidJsonError(f"an integer of {len(text)} digits is too large")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise _InvalidJsonError(f"{one_line(text, 40)} is too large for a number")
    return value


def _depth(text: str) -> int:
    """How deep a JSON text is nested; an upper bound where it has few brackets. Walking through the values takes longer."""
    if (brackets := text.count("[") + text.count("{")) <= MAX_DEPTH:
        return brackets
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(_STRING.sub("", text)))
    return max(accumulate(steps), default=0)


def _check(value: Any) -> None:
    """Depth, and whole characters, level by level: a value may be nested deeper than calls can be."""
    level: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[tuple[str | int, ...], Any]] = []
        for path, each in level:
            if isinstance(each, dict):
                below += [((*path, key), inner) for key, inner in each.items()]
                below += [(path, key) for key in each]
            elif isinstance(each, list):
                below += [((*path, position), inner) for position, inner in enumerate(each)]
            elif isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
                raise _InvalidJsonError("half a surrogate pair is no character", dotted_key(path))
        level = below
    if level:
        raise _InvalidJsonError(f"nested more than {MAX_DEPTH} levels deep")
