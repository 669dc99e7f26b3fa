"""Read and write a JSON-like subset of YAML 1.2, the format of recipes, sweeps, cluster profiles, expected results and `--set`.

The subset has strings, numbers, true and false, null, lists, and mappings with string keys. These are errors: anchors and aliases,
tags, merge keys, directives, a second document, a key that occurs twice, more than 64 levels, integers of more than 300 digits,
numbers that are not finite, control characters and unpaired surrogates.

PyYAML's parser finds the structure. This module decides what a scalar means, because PyYAML follows YAML 1.1, where `1e-4` is a
string, `no` a boolean, `1:30` a number and 2026-11-25 a date. See docs/decisions/11-documents.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.location import KeyPath, dotted_key
from spac_repro.documents.text import read_text
from spac_repro.errors import UserError

MAX_BYTES = 1 << 20  # of a file: takes seconds to read, and is twenty times the largest file that ships
MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 300  # so that every integer fits into a float

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Line separators end a line in YAML 1.1 but not in 1.2. A byte order mark has no meaning inside a text.
_FORBIDDEN_IN_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029\ufeff]")
_CONTROL_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LINE_BREAK = re.compile("\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Node:
    """A value, and the line on which the value, or its key, begins."""

    value: Any  # None, bool, int, float, str, list of nodes, dict of nodes
    line: int
    literal: str | None = None  # of a number

    def to_python(self) -> Any:
        """Return the plain value, without lines."""
        if isinstance(self.value, dict):
            return {key: node.to_python() for key, node in self.value.items()}
        return [node.to_python() for node in self.value] if isinstance(self.value, list) else self.value

    def child(self, part: str | int) -> "Node | None":
        """Return the value under a key or at a position; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            found: Node = self.value[part]
            return found
        return None


@dataclass(frozen=True)
class Document:
    """A document with the line of each value. It is the `Source` of its values."""

    name: str
    root: Node
    key_prefix: KeyPath = ()  # the document's values are below this key
    show_lines: bool = True

    @property
    def value(self) -> Any:
        """The plain values, without lines."""
        return self.root.to_python()

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        """Make an error about the value at `path`. It names the line of the deepest part of `path` that exists."""
        *_, last = [None, *self._nodes_along(path)]
        line = last.line if last and self.show_lines else None
        return user_error(self.name, problem, line=line, key=dotted_key((*self.key_prefix, *path)), remedy=remedy)

    def literal(self, path: KeyPath) -> str | None:
        """Return the number at `path` as it was written; None for any other value."""
        nodes = list(self._nodes_along(path)) if path else [self.root]
        return nodes[-1].literal if len(nodes) == max(len(path), 1) else None

    def _nodes_along(self, path: KeyPath) -> Iterator[Node]:
        node: Node | None = self.root
        for part in path:
            node = node.child(part) if node else None
            if node is not None:
                yield node


def read(path: Path, missing_file_remedy: str = "") -> Document:
    """Read a file.

    Raises:
        UserError: The file is missing (with `missing_file_remedy`), cannot be read, or is not in the subset.
    """
    return parse(read_text(path, max_bytes=MAX_BYTES, missing_file_remedy=missing_file_remedy), str(path))


def parse(text: str, name: str, *, key_prefix: KeyPath = (), show_lines: bool = True) -> Document:
    """Parse a text.

    Args:
        text: The text of a document, or of one value.
        name: The document's name, for errors.
        key_prefix: The key that the values belong to, for errors.
        show_lines: Whether errors name the line.

    Raises:
        UserError: The text is not in the subset.
    """
    return Document(name, _Composer(text, name, key_prefix, show_lines).document(), key_prefix, show_lines)


class _Composer:
    """Build the tree of one document from the parser's events."""

    def __init__(self, text: str, name: str, key_prefix: KeyPath, show_lines: bool) -> None:
        self.name, self.show_lines = name, show_lines
        self.path: list[str | int] = list(key_prefix)
        self.outermost = len(self.path)
        if match := _FORBIDDEN_IN_TEXT.search(text):
            line = len(_LINE_BREAK.findall(text, 0, match.start())) + 1
            raise self._error(line, f"the character U+{ord(match[0]):04X} is not allowed", "remove it")
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Node:
        """Return the only document of the stream; null where the stream is empty."""
        self._next()  # the stream's start
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return Node(None, 1)
        if event.version or event.tags:
            raise self._error(_line(event), "directives (%) are not supported", "remove the line")
        root = self._node(self._next())
        self._next()  # the document's end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._error(_line(event), "a second document begins here (---)", "write one document per file")
        return root

    def _next(self) -> Any:
        try:
            return next(self.events)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
            raise self._syntax_error(mark.line + 1 if mark else None, one_line(problem, 120)) from None
        except (ValueError, OverflowError):
            raise self._syntax_error(None, "an escape sequence that is not a character") from None

    def _node(self, event: Any, line: int | None = None) -> Node:
        """Return the value that begins with an event; `line` is the line of its key."""
        line = line or _line(event)
        self._refuse_anchors_and_tags(event, line)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line)
        if len(self.path) - self.outermost >= MAX_DEPTH:
            del self.path[self.outermost + 3 :]
            raise self._error(line, f"nested more than {MAX_DEPTH} levels deep", "use fewer levels")
        return Node(self._mapping() if isinstance(event, yaml.MappingStartEvent) else self._sequence(), line)

    def _refuse_anchors_and_tags(self, event: Any, line: int) -> None:
        quotes = "or quote the text"
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._error(line, "anchors (&) and aliases (*) are not supported", f"write the value out, {quotes}")
        if event.tag is not None:
            tag = one_line(event.tag.replace("tag:yaml.org,2002:", "!!"), 40)
            raise self._error(line, f"tags ({tag}) are not supported", f"write the plain value, {quotes}")

    def _sequence(self) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            self.path.append(len(items))
            items.append(self._node(event))
            self.path.pop()
        return items

    def _mapping(self) -> dict[str, Node]:
        items: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = _line(event)
            self._refuse_anchors_and_tags(event, line)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(line, "a key must be a word, not a list or a mapping")
            if event.style is None and event.value == "<<":
                raise self._error(line, "merge keys (<<) are not supported", "write the values out")
            self.path.append(key := self._text(event.value, line))
            if key in items:
                raise self._error(line, f"occurs twice, first on line {items[key].line}", "remove one")
            items[key] = self._node(self._next(), line)
            self.path.pop()
        return items

    def _scalar(self, event: Any, line: int) -> Node:
        text = event.value
        if event.style is not None:  # in quotes, or a block
            return Node(self._text(text, line), line)
        if text in _WORDS:
            return Node(_WORDS[text], line)
        if _INTEGER.fullmatch(text):
            if len(text) > MAX_INTEGER_DIGITS:
                raise self._error(line, f"an integer of {len(text)} digits is too large", "write a smaller one, or quote the text")
            return Node(int(text), line, text)
        if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and abs(float(text)) == float("inf")):
            raise self._error(line, f"{one_line(text, 40)} is not a finite number", "write a finite one, or quote the text")
        return Node(float(text), line, text) if _FLOAT.fullmatch(text) else Node(self._text(text, line), line)

    def _text(self, text: str, line: int) -> str:
        """Check a text, and join surrogate pairs: JSON escapes a character beyond U+FFFF as two surrogates."""
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(line, "an unpaired surrogate is not a character", "write the whole pair") from None
        if match := _CONTROL_CHARACTER.search(text):
            raise self._error(line, f"the control character U+{ord(match[0]):04X} is not allowed in a value", "remove it")
        return text

    def _syntax_error(self, line: int | None, problem: str) -> UserError:
        if self.show_lines:
            return self._error(line, f"not YAML ({problem})")
        return self._error(None, f"is not a value ({problem})", "write a number, a word or null")

    def _error(self, line: int | None, problem: str, remedy: str = "") -> UserError:
        return user_error(self.name, problem, line=line if self.show_lines else None, key=dotted_key(self.path), remedy=remedy)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class _Dumper(yaml.SafeDumper):
    """Quote every text that YAML 1.1 or 1.2 would read as another type, and write no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("+-.0123456789"))


def dump(value: Any) -> str:
    """Write a tree of plain values as YAML. Keys keep their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
