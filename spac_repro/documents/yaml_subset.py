"""A JSON-like subset of YAML 1.2: what people write recipes, sweeps, cluster profiles, expected results and `--set` in.

Strings, numbers, true and false, null, lists, and mappings with string keys. Refused are anchors and aliases, tags, merge keys,
directives, a second document, a key twice, more than 64 levels, integers of more than 300 digits, numbers that are not finite,
control characters and halves of surrogate pairs. PyYAML's parser finds the structure; what a scalar means is decided here, because
PyYAML's own rules are those of YAML 1.1 (there `1e-4` is a string, `no` a boolean, `1:30` a number and 2026-11-25 a date).
See docs/decisions/11-documents.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spac_repro.documents.errors import one_line, user_error
from spac_repro.documents.source import KeyPath, dotted_key
from spac_repro.documents.text import read_text
from spac_repro.errors import UserError

MAX_BYTES = 1 << 20  # bytes of a file: seconds to read, and twenty times as much as any that ships
MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 300  # of an integer, so that each fits into a float

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Line separators end a line in YAML 1.1 and do not in 1.2; a mark of byte order has no meaning inside a text.
_NO_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029\ufeff]")
_NO_VALUE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BREAK = re.compile("\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Node:
    """A value, and the line on which it, or its key, begins."""

    value: Any  # None, bool, int, float, str, list of nodes, dict of nodes
    line: int
    literal: str | None = None  # of a number

    def to_python(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: node.to_python() for key, node in self.value.items()}
        return [node.to_python() for node in self.value] if isinstance(self.value, list) else self.value

    def child(self, part: str | int) -> "Node | None":
        """The value under a key or at a position, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            found: Node = self.value[part]
            return found
        return None


@dataclass(frozen=True)
class Document:
    """What was read, with the line of each value (a Source)."""

    name: str
    root: Node
    key_prefix: KeyPath = ()  # the document's values stand below this key
    show_lines: bool = True

    @property
    def value(self) -> Any:
        """The tree of plain values."""
        return self.root.to_python()

    def error(self, path: KeyPath, problem: str, remedy: str = "") -> UserError:
        """An error about a value. Its line is that of the deepest part of `path` that the document has."""
        *_, last = [None, *self._nodes_along(path)]
        line = last.line if last and self.show_lines else None
        return user_error(self.name, problem, line=line, key=dotted_key((*self.key_prefix, *path)), remedy=remedy)

    def literal(self, path: KeyPath) -> str | None:
        """The number at `path` as it was written; None for any other value."""
        nodes = list(self._nodes_along(path)) if path else [self.root]
        return nodes[-1].literal if len(nodes) == max(len(path), 1) else None

    def _nodes_along(self, path: KeyPath) -> Iterator[Node]:
        node: Node | None = self.root
        for part in path:
            node = node.child(part) if node else None
            if node is not None:
                yield node


def read(path: Path, missing_file_remedy: str = "") -> Document:
    """Read a file; `missing_file_remedy` is the remedy where there is none.

    Raises:
        UserError: it cannot be read, or is not in the subset.
    """
    return parse(read_text(path, max_bytes=MAX_BYTES, missing_file_remedy=missing_file_remedy), str(path))


def parse(text: str, name: str, *, key_prefix: KeyPath = (), show_lines: bool = True) -> Document:
    """Read a text. Errors name `name`, the line (unless not `show_lines`), and the key below `key_prefix`.

    Raises:
        UserError: it is not in the subset.
    """
    return Document(name, _Composer(text, name, key_prefix, show_lines).document(), key_prefix, show_lines)


class _Composer:
    """Builds the tree of one document from the parser's events."""

    def __init__(self, text: str, name: str, key_prefix: KeyPath, show_lines: bool) -> None:
        self.name, self.show_lines = name, show_lines
        self.path: list[str | int] = list(key_prefix)
        self.outermost = len(self.path)
        if found := _NO_TEXT.search(text):
            line = len(_BREAK.findall(text, 0, found.start())) + 1
            raise self._error(line, f"the character U+{ord(found[0]):04X} cannot stand in a text", "remove it")
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Node:
        """The one document of the stream; null where there is none."""
        self._next()  # the stream's start
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return Node(None, 1)
        if event.version or event.tags:
            raise self._error(_line(event), "directives (%) are not read here", "remove the line")
        root = self._node(self._next())
        self._next()  # the document's end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._error(_line(event), "a second document begins here (---)", "keep one in a file")
        return root

    def _next(self) -> Any:
        try:
            return next(self.events)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
            raise self._syntax_error(mark.line + 1 if mark else None, one_line(problem, 120)) from None
        except (ValueError, OverflowError):
            raise self._syntax_error(None, "an escape that stands for no character") from None

    def _node(self, event: Any, line: int | None = None) -> Node:
        """The value that begins with an event; `line` is its key's."""
        line = line or _line(event)
        self._refuse_anchors_and_tags(event, line)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line)
        if len(self.path) - self.outermost >= MAX_DEPTH:
            del self.path[self.outermost + 3 :]
            raise self._error(line, f"nested more than {MAX_DEPTH} levels deep", "write it flatter")
        return Node(self._mapping(line) if isinstance(event, yaml.MappingStartEvent) else self._sequence(), line)

    def _refuse_anchors_and_tags(self, event: Any, line: int) -> None:
        quotes = "or put a text in quotes"
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._error(line, "anchors (&) and aliases (*) are not read here", f"write the value out, {quotes}")
        if event.tag is not None:
            tag = one_line(event.tag.replace("tag:yaml.org,2002:", "!!"), 40)
            raise self._error(line, f"tags ({tag}) are not read here", f"write the plain value, {quotes}")

    def _sequence(self) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            self.path.append(len(items))
            items.append(self._node(event))
            self.path.pop()
        return items

    def _mapping(self, begins: int) -> dict[str, Node]:
        items: dict[str, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = _line(event)
            self._refuse_anchors_and_tags(event, line)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(line, "a key must be a word, not a list or a mapping")
            if event.style is None and event.value == "<<":
                raise self._error(line, "merge keys (<<) are not read here", "write the values out")
            self.path.append(key := self._text(event.value, line))
            if key in items:
                raise self._error(line, f"stands there twice, first on line {items[key].line}", "remove one")
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
                raise self._error(
                    line, f"an integer of {len(text)} digits is too large", "write a smaller one, or a text in quotes"
                )
            return Node(int(text), line, text)
        if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and abs(float(text)) == float("inf")):
            raise self._error(line, f"{one_line(text, 40)} is not a finite number", "write a finite one, or a text in quotes")
        return Node(float(text), line, text) if _FLOAT.fullmatch(text) else Node(self._text(text, line), line)

    def _text(self, text: str, line: int) -> str:
        """A text whose escapes stand for characters: JSON writes those beyond U+FFFF as two, which belong together."""
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(line, "half a surrogate pair is no character", "write the whole one") from None
        if found := _NO_VALUE.search(text):
            raise self._error(line, f"the control character U+{ord(found[0]):04X} cannot stand in a value", "remove it")
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
    """Quotes what either version of YAML would not read as the text that it is, and repeats what stands in two places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("+-.0123456789"))


def dump(value: Any) -> str:
    """The text of a tree of plain values, its keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
