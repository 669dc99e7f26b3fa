"""Damage to a valid file: values of the wrong kind in a tree, hostile snippets in a text, changed bytes. All draws are seeded."""

import copy
import gzip
import json
import random
import zlib
from contextlib import suppress
from typing import Any

import yaml

HOSTILE: tuple[Any, ...] = (
    None, [], {}, "", "x", 0, -1, 1, True, 1.5, 1e308, 10**300, -(10**30), float("nan"), float("inf"), [None], [[]], {"a": {}},
    "[/nope]", "[red]x", "\x1b[31mred", "=1+1", "a\nb", "a" * 5000, "../../etc/passwd", "\u202e", "\x00", "π", "\ud800",
    ["x"] * 50, {str(i): i for i in range(50)}, "2024-02-30", "1e-300", "~", "-", "%n", "${HOME}", "<script>", "NaN",
)  # fmt: skip
SNIPPETS = (
    b"!!int 'abc'", b"!!bool maybe", b"!!timestamp x", b"2024-02-30", b"!!python/object/apply:os.system [true]", b"&a [*a, *a]",
    b"*missing", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\xed\xa0\x80", b"9" * 5000, b"[" * 5000, b"{" * 3000, b"- " * 2000, b"\t",
    b"a: " * 500, b'"\\ud800"', b"1e999", b"NaN", b": :", b"? x", b"---\n---\n", b"\r", b"\xe2\x80\xa8", b"null", b"a" * 20000,
    b"version https://git-lfs.github.com/spec/v1\n", b"<<<<<<< HEAD\n", b"%YAML 9\n", b"<<: 1", b"0x", b"1_000", b"[/nope]",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c]\n",
)  # fmt: skip


def bytes_of(rng: random.Random, data: bytes) -> bytes:
    """Change, remove, repeat, cut or insert bytes."""
    place = rng.randrange(len(data) + 1)
    length = min(rng.choice((1, 4, 40, 400)), len(data))
    change = rng.randrange(7)
    if change == 0:
        return data[:place]
    if change == 1:
        return data[:place] + data[place + length :]
    if change == 2:
        return data[:place] + data[place : place + length] * 3 + data[place + length :]
    if change == 3:
        return data[:place] + bytes(rng.randrange(256) for _ in range(length)) + data[place + length :]
    if change == 4:
        return rng.choice((b"", b"\n", b"null", b"[]", b"{}", b"0", b'""', rng.choice(SNIPPETS)))
    return data[:place] + rng.choice(SNIPPETS) + data[place:]


def tree_of(rng: random.Random, tree: Any) -> Any:
    """Replace, remove, repeat or add one value somewhere in a tree."""
    tree = copy.deepcopy(tree)
    node, parents = tree, []
    while isinstance(node, dict | list) and node and (not parents or rng.random() < 0.8):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        parents.append((node, key))
        node = node[key]
    if not parents or rng.random() < 0.03:
        return rng.choice(HOSTILE)
    parent, key = parents[-1]
    change = rng.random()
    if change < 0.15:
        del parent[key]
    elif change < 0.25 and isinstance(parent, dict):
        parent[rng.choice(("[/nope]", "", "π" * 3, "a" * 3000, "\x1b[31m", "schema", str(key)[:-1]))] = parent.pop(key)
    elif change < 0.3 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(node))
    elif change < 0.36:
        parent[key] = [node]
    elif change < 0.42 and isinstance(node, str):
        parent[key] = node + rng.choice(("x", "[/nope]", "\n", "π", "a" * 3000))
    elif change < 0.5 and isinstance(node, int | float):
        parent[key] = rng.choice((-node, node * 1e6, str(node), 0))
    else:
        parent[key] = rng.choice(HOSTILE)
    return tree


def _dumps(tree: Any) -> bytes:
    return json.dumps(tree).encode(errors="surrogatepass")


def mutate(rng: random.Random, data: bytes, syntax: str) -> bytes:
    """Damage a file once, seldom several times.

    Args:
        rng: The source of all draws.
        data: The valid file.
        syntax: "yaml", "json", "jsonl", "gz" or "bytes".
    """
    for _ in range(1 if rng.random() < 0.8 else rng.randrange(2, 4)):
        data = _once(rng, data, syntax)
    return data


def _once(rng: random.Random, data: bytes, syntax: str) -> bytes:
    if syntax == "gz" and rng.random() < 0.7:
        with suppress(OSError, EOFError, zlib.error):  # damaged before; only its bytes can be changed
            return gzip.compress(_once(rng, gzip.decompress(data), "jsonl"), mtime=0)
    if syntax in ("yaml", "json", "jsonl") and rng.random() < 0.7:
        with suppress(ValueError, yaml.YAMLError, RecursionError, IndexError, OverflowError, AttributeError, TypeError):
            return _structured(rng, data, syntax)
    return bytes_of(rng, data)


def _structured(rng: random.Random, data: bytes, syntax: str) -> bytes:
    if syntax == "yaml":
        return yaml.safe_dump(tree_of(rng, yaml.safe_load(data)), allow_unicode=rng.random() < 0.5).encode(errors="surrogatepass")
    if syntax == "json":
        return _dumps(tree_of(rng, json.loads(data)))
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = _dumps(tree_of(rng, json.loads(lines[place])))
    return b"\n".join(lines) + b"\n"
