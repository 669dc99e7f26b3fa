"""Read JSON strictly, with errors of one line.

These are errors: a key that occurs twice in an object (Python keeps the last one), more than 64 levels, integers of more than 300
digits, numbers too large for a float, and unpaired surrogates. NaN and Infinity are read, because Python writes them; the model
of a document decides which numbers must be finite.
"""

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.location import dotted_key
from spac_repro.documents.text import decode_utf8, read_text

MAX_BYTES = 1 << 28  # bytes of a file
MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 300

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")  # one surrogate, paired or not
_TYPE_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class _InvalidJsonError(ValueError):
    """A problem that a callback of Python's JSON reader found."""

    def __init__(self, problem: str, key: str = "") -> None:
        super().__init__(problem)
        self.problem, self.key = problem, key


def read(path: Path, expected_type: type | None = None, *, missing_file_remedy: str = "", remedy: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        expected_type: The type that the content must have: dict or list. None allows any.
        missing_file_remedy: What to do where there is no such file.
        remedy: What to do where the content is wrong.

    Raises:
        UserError: The file cannot be read, is not JSON, or has another type.
    """
    text = read_text(path, max_bytes=MAX_BYTES, missing_file_remedy=missing_file_remedy)
    return parse(text, str(path), expected_type, remedy=remedy)


def parse(text: str | bytes, where: str, expected_type: type | None = None, *, line: int | None = None, remedy: str = "") -> Any:
    """Parse a JSON text.

    Args:
        text: A whole document, or one line of it.
        where: The document's name, for errors.
        expected_type: The type that the content must have: dict or list. None allows any.
        line: The line's number, where `text` is one line.
        remedy: What to do where the content is wrong.

    Raises:
        UserError: The text is not JSON, or has another type.
    """
    text = decode_utf8(text, where, line) if isinstance(text, bytes) else text
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float)
        if _SURROGATE_ESCAPE.search(text) or _depth(text) > MAX_DEPTH:
            _check_depth_and_text(value)
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg} at column {error.colno})"
        raise user_error(where, problem, line=line or error.lineno, remedy=remedy) from None
    except _InvalidJsonError as error:
        raise user_error(where, error.problem, line=line, key=error.key, remedy=remedy) from None
    except RecursionError:
        raise user_error(where, f"nested more than {MAX_DEPTH} levels deep", line=line, remedy=remedy) from None
    if expected_type is not None and type(value) is not expected_type:
        raise user_error(where, f"must be {_TYPE_NAMES[expected_type]}, found {json_type(value)}", line=line, remedy=remedy)
    return value


def json_type(value: object) -> str:
    """Name the JSON type of a value for an error: `an object`, `a list` and so on."""
    return "nothing" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _InvalidJsonError("occurs twice", name)
            seen.add(name)
    return members


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
    """Return how deep a JSON text is nested; an upper bound where it has few brackets. This is faster than walking the values."""
    if (brackets := text.count("[") + text.count("{")) <= MAX_DEPTH:
        return brackets
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(_STRING.sub("", text)))
    return max(accumulate(steps), default=0)


def _check_depth_and_text(value: Any) -> None:
    """Check depth and surrogates level by level: recursion fails on values that are nested deeper than Python's stack."""
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
                raise _InvalidJsonError("an unpaired surrogate is not a character", dotted_key(path))
        level = below
    if level:
        raise _InvalidJsonError(f"nested more than {MAX_DEPTH} levels deep")
