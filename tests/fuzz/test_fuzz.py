"""Whatever is handed in gets one line or the right answer: damaged files of every kind, drawn by a seed (docs/reliability.md)."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import kinds  # noqa: E402
import run  # noqa: E402


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    kinds.write_bases(folder)
    return folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the tracebacks of crashes


@pytest.mark.parametrize(
    "kind", [kind for kind in kinds.KINDS if kind.base not in ("model", "adapter")], ids=lambda kind: kind.name
)
def test_a_valid_file_of_every_kind_is_read(bases, tmp_path, temporary, kind):
    for command in kind.commands[:1] if kind.call is None else [""]:
        kinds.copy_base(bases, kind, tmp_path / "input")
        answer = run.in_process(replace(kind, commands=(command,)), random.Random(0), tmp_path / "input")
        assert answer.code in ((0, 1, 2) if kind.name == "lm-eval results" else (0, 1)), answer.error
        assert not answer.error or kind.name == "archive"  # progress


def test_damaged_files_get_one_line_or_the_right_answer(bases, tmp_path, temporary):
    counts, failures = run.fuzz(bases, tmp_path, inputs=150, commands=0, seed=20)
    assert not failures, "\n".join(failures)
    assert counts["in process: exit 2"] > 40
    assert counts["in process: exit 0"] > 10


@pytest.mark.check
def test_whole_commands_and_model_folders_too(bases, tmp_path):
    command = [sys.executable, str(HERE / "run.py"), "--inputs", "60", "--commands", "12", "--seed", "21"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=None, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


KIND = kinds.KINDS[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (run.Answer(0, "", "", 31.0), "took 31 s"),
        (run.Answer(70, "", "spac-repro: x\n", 0.1), "exit code 70"),
        (run.Answer(1, "", "", 0.1), "exit code 1"),
        (run.Answer(2, "", "Traceback (most recent call last):\n", 0.1), "a traceback"),
        (run.Answer(2, "", "spac-repro: a\nb\n", 0.1), "2 lines"),
        (run.Answer(2, "", "", 0.1), "0 lines"),
        (run.Answer(2, "", f"spac-repro: {'x' * 301}\n", 0.1), "too long"),
        (run.Answer(0, "", "", 0.1), ""),
        (run.Answer(3, "", "spac-repro: full\n", 0.1), ""),
    ],
)
def test_a_broken_rule_is_found(answer, words):
    found = run.problem(answer, KIND)
    assert words in found
    assert bool(words) == bool(found)


def test_equal_seeds_give_equal_inputs(bases, tmp_path):
    for kind in kinds.KINDS[:20]:
        if not (bases / kind.base).is_dir():
            continue
        contents = set()
        for name in ("a", "b"):
            run.prepared(kind, random.Random("1:2"), bases, tmp_path / name)
            contents.add((tmp_path / name / kind.file).read_bytes())
        assert len(contents) == 1
