"""What the tests of the command line share: commands by way of the function behind `spac-repro`, in a folder of their own."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from spac_repro import cli, recipes
from spac_repro.optim import signals


class Finished(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def as_without_signals(monkeypatch):
    """`cli.main` installs handlers, and remembers a signal until the process ends; the next test knows of neither."""
    monkeypatch.setattr(signals, "_signal_received", False)
    monkeypatch.setattr(signals, "_end_requested", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def invoke(tmp_path, monkeypatch, capsys):
    """Runs a command in the temporary folder, by way of the function behind `spac-repro`."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: Any) -> Finished:
        monkeypatch.setattr(sys, "argv", ["spac-repro", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Finished(code, *capsys.readouterr())

    return invoke


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes | str | None]]:
    """Tells all that is in a folder."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return lambda folder: {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(invoke, tree, tmp_path):
    """Runs a command that must fail with one line and leave the folder as it was; the line."""

    def refused(*arguments: Any, code: int = 2, stages: bool = False) -> str:
        before = tree(tmp_path)
        done = invoke(*arguments)
        assert done.code == code, done
        assert done.out == ""
        lines = done.err.splitlines()
        if stages:  # progress may come before it
            lines = lines[-1:]
        assert len(lines) == 1, done.err
        assert lines[0].startswith("spac-repro: ")
        assert tree(tmp_path) == before
        return lines[0].removeprefix("spac-repro: ")

    return refused


@pytest.fixture
def pairs(tmp_path):
    """Writes a preference file of these lines."""

    def write(*lines: Any) -> Path:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def own_recipe(tmp_path):
    """Writes a recipe for one's own preferences with a very small policy, from `tiny` and changes by dotted key."""

    def write(**changes: Any) -> Path:
        def plain(values: Any) -> Any:
            leaf = lambda value: value if value is None else {"value": value, "from": "assumed"}  # noqa: E731
            return {key: plain(value) if isinstance(value, dict) else leaf(value) for key, value in values.items()}

        values = recipes.load("tiny").recipe.model_dump(mode="json")
        values["data"] |= {"source": "file", "world": None, "max_pairs": None}
        values["supervised_start"] = None
        values["evaluation"] |= {"suite": "none", "gold_prompts": 0, "heldout_pairs": 0}
        values["policy"]["architecture"] |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        for key, value in changes.items():
            group, name = key.split("__")
            values[group][name] = value
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**plain(values), "name": "mine", "summary": "One's own."}))
        return path

    return write
