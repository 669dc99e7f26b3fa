"""`spac-repro` itself: what a user meets first, exit codes, one line for what is wrong, and what is not imported."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import spac_repro
from spac_repro import methods, recipes
from spac_repro.cli.root import app
from spac_repro.optim import signals

HEAVY = {
    *("torch", "transformers", "lm_eval", "datasets", "matplotlib", "scipy", "numpy", "pyarrow", "accelerate", "tensorboard"),
    *("deepspeed", "docker", "huggingface_hub", "jinja2", "rocrate", "safetensors", "submitit", "tokenizers"),
}

SPAC_REPRO = (sys.executable, "-m", "spac_repro")

# Runs command lines one after the other, and says what each imported that no one before it did.
IMPORTS = """
import contextlib, io, json, sys
from spac_repro import cli

imported = {}
for line in json.loads(sys.argv[1]):
    before, sys.argv, said = set(sys.modules), ["spac-repro", *line], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main()
    assert line[-1] != "--help" or "Usage:" in said.getvalue(), line
    imported[" ".join(line)] = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps(imported))
"""


def imported(lines: list[list[str]], packages: set[str]) -> dict[str, set[str]]:
    """Which of these packages each command line imports first, where it imports any.

    Counted in packages and not in seconds, which depend on the machine.
    """
    done = subprocess.run([sys.executable, "-c", IMPORTS, json.dumps(lines)], capture_output=True, text=True, check=True)
    all_of_them = json.loads(done.stdout)
    assert len(all_of_them) == len(lines)
    return {line: found for line, its in all_of_them.items() if (found := packages & set(its))}


def command_lines(command: Any, words: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Every command and group, by the words that call it."""
    yield list(words)
    for name, below in getattr(command, "commands", {}).items():
        yield from command_lines(below, (*words, name))


def test_help_imports_nothing_heavy():
    lines = [[*words, "--help"] for words in command_lines(get_command(app))]
    assert len(lines) > 20
    assert ["sweep", "submit", "--help"] in lines
    assert imported(lines, HEAVY) == {}


def test_an_import_is_found():
    assert imported([["recipes", "list"], ["recipes", "show", "tiny"]], {"rich"}) == {"recipes show tiny": {"rich"}}


def test_light_commands_import_nothing_heavy():
    lines = ["--version", "recipes list", "recipes show tiny", "train --dry-run", "sweep submit seeds --dry-run"]
    assert imported([line.split() for line in lines], HEAVY) == {}


def test_the_version(invoke):
    assert invoke("--version") == (0, f"spac-repro {spac_repro.__version__}\n", "")


def test_the_help_tells_the_exit_codes(invoke):
    done = invoke("--help")
    assert done.code == 0
    assert all(word in " ".join(done.out.split()) for word in ("0 success", "1 finished", "2 wrong usage", "3 this machine", "130"))
    assert all(command in done.out for command in ("train", "evaluate", "verify", "recipes"))


def test_the_installed_command_is_this_one():
    command = Path(sys.executable).parent / "spac-repro"
    if not command.exists():
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run([command, "train", "--recipe", "tinny"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("spac-repro: unknown recipe 'tinny' (did you mean tiny?)")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error():
    """As in `spac-repro recipes show tiny | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*SPAC_REPRO, "recipes", "show", "tiny"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", [["train", "--seed", "-1"], ["train", "--max-pairs", "0"], ["train", "--metod", "dpo"], ["trian"]]
)
def test_wrong_usage(invoke, tree, tmp_path, arguments):
    done = invoke(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert arguments[1 if len(arguments) > 1 else 0] in done.err.splitlines()[-1]
    assert tree(tmp_path) == {}


def test_what_fails_after_a_signal_is_an_interruption(invoke, monkeypatch):
    def half_imported(*_, **__):
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(recipes, "load", half_imported)
    monkeypatch.setattr("os._exit", sys.exit)
    assert invoke("train").code == 70
    monkeypatch.setattr(signals, "_signal_received", True)
    assert invoke("train").code == 130


@pytest.mark.parametrize(
    ("processes", "words", "code"), [(1, ["--version"], None), (2, ["--version"], 0), (2, ["recipes", "x"], 2)]
)
def test_one_of_several_processes_is_not_taken_down_by_python(invoke, monkeypatch, processes, words, code):
    """Where the interpreter ends, a thread of Gloo that still holds a tensor aborts the process."""
    ended: list[object] = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: ended.append("exit functions"))
    monkeypatch.setattr("os._exit", lambda status: (ended.append(status), sys.exit(status)))
    assert invoke(*words).code == (code or 0)
    assert ended == ([] if code is None else ["exit functions", code])


@pytest.mark.parametrize(("command", "then"), [("train", "resume from the last checkpoint"), ("rehearse", "start over")])
def test_an_interruption_says_how_to_go_on(invoke, monkeypatch, command, then):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(recipes, "load", interrupted)
    monkeypatch.setattr("os._exit", sys.exit)
    done = invoke(command)
    assert done.code == 130
    assert done.err == f"spac-repro: interrupted; repeat the command to {then}\n"


# Methods from outside


def another_distribution(folder: Path, name: str) -> dict[str, str]:
    """A folder on the path with a distribution that brings a method; the environment in which it is found."""
    (folder / "theirs.py").write_text(
        "from dataclasses import replace\n"
        "from spac_repro import methods\n"
        f"method = replace(methods.get('dpo'), name={name!r}, loss='theirs:loss')\n"
    )
    metadata = folder / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{methods.ENTRY_POINT_GROUP}]\n{name} = theirs:method\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:\n", "cannot be imported: invalid syntax"),
        ("raise RuntimeError('a\\nb' * 400)\n", "cannot be imported: a ba b"),
        ("method = 'dpo'\n", "is a str; it must be a Method"),
    ],
)
def test_what_is_no_method_from_outside_is_said_in_one_line(tmp_path, code, said):
    environment = another_distribution(tmp_path, "theirs")
    (tmp_path / "theirs.py").write_text(code)
    done = subprocess.run([*SPAC_REPRO, "--help"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert len(done.stderr) <= len("spac-repro: ") + 300 + 1


def test_a_method_from_outside_is_listed(tmp_path):
    environment = another_distribution(tmp_path, "theirs")
    done = subprocess.run([*SPAC_REPRO, "train", "--help"], env=environment, capture_output=True, text=True, check=True)
    assert f"<{'|'.join([*methods.names(), 'theirs'])}>" in done.stdout


def test_a_method_from_outside_that_takes_another_ones_name_is_said_in_one_line(tmp_path):
    done = subprocess.run([*SPAC_REPRO, "--help"], env=another_distribution(tmp_path, "spac"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spac-repro: two methods are called spac, one of them from theirs 1.0; rename or uninstall one\n"


def test_no_escape_sequence_reaches_the_terminal(capsys):
    from spac_repro.cli import output

    table = output.table("a\x1b]0;title\x07", "task")
    table.add_row("arc\x1b[2J\nb")
    output.show(table)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "arc[2J" in shown
