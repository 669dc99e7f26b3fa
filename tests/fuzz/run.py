"""Hand in damaged files of every kind, in process and as whole commands, and hold the answers against one rule.

    python tests/fuzz/run.py --inputs 10000 --commands 300 --seed 0

The rule: the right answer with exit 0, or exit 2 or 3 (1 from verify and compare too) with one line of at most 300 characters; no
traceback; under 30 s of processor time and 2 GB. Every failure is printed, and its files are kept.
"""

import argparse
import contextlib
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import kinds  # noqa: E402
import mutations  # noqa: E402

SECONDS = 30  # of processor time
WALL_SECONDS = 300  # whatever else the machine does meanwhile
BYTES = 2 << 30
PREFIX = "spac-repro: "


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    output: str
    error: str  # its standard error
    seconds: float


class TooSlowError(Exception):
    """An input took longer than the rule allows."""


def problem(answer: Answer, kind: kinds.Kind) -> str:
    """Say how an answer breaks the rule; empty where it keeps it."""
    lines = [line for line in answer.error.splitlines() if line.startswith(PREFIX)]
    if answer.seconds > SECONDS:
        return f"took {answer.seconds:.0f} s"
    if "Traceback" in answer.error:
        return "a traceback"
    if answer.code not in (0, 2, 3) and not (answer.code == 1 and kind.numbers_may_disagree):
        return f"exit code {answer.code}"
    # tokenizers, a library in Rust, prints the first itself; the second is progress.
    error = "".join(
        line for line in answer.error.splitlines(True) if not re.match(r"Ignored unknown kwarg option|\[ *\d+\.\d s\]", line)
    )
    verdict = kind.numbers_may_disagree and answer.code == 2 and answer.output and not error  # verify's "unverified"
    if answer.code in (2, 3) and not verdict and (len(lines) != 1 or error.count("\n") > 1):
        return f"{answer.error.count(chr(10))} lines"
    if any(len(line) > 300 + len(PREFIX) or not line.isprintable() for line in lines):
        return "a line that is too long, or not printable"
    return ""


def in_process(kind: kinds.Kind, rng: random.Random, folder: Path) -> Answer:
    """Read the folder in this process: by the kind's function, or by one of its commands."""
    from spac_repro import cli
    from spac_repro.cli import failures, root

    def call() -> Any:
        if kind.call is not None:
            return kind.call(folder)
        return root.app(list(kinds.arguments(rng.choice(kind.commands), folder)), prog_name="spac-repro", standalone_mode=False)

    def alarm(number: int, frame: object) -> None:
        raise TooSlowError

    output, error, code, started = io.StringIO(), io.StringIO(), 0, time.process_time()
    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(WALL_SECONDS)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            try:
                result = call()
                code = result if kind.call is None and isinstance(result, int) else 0
            except failures.UserError as refused:
                code = failures.report_user_error(refused)
            except cli.USAGE_ERROR as refused:
                print(cli._usage_message(refused), file=sys.stderr)
                code = 2
            except SystemExit as ended:
                code = int(ended.code or 0)
            except Exception as crash:
                code = failures.report_crash(crash)
                print(f"{type(crash).__name__}: {crash}"[:300], file=sys.stderr)
    except TooSlowError:
        started = -float(WALL_SECONDS)
    finally:
        signal.alarm(0)
    return Answer(code, output.getvalue(), error.getvalue(), time.process_time() - started)


def _time_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def as_command(kind: kinds.Kind, rng: random.Random, folder: Path) -> Answer:
    """Run one of the kind's commands in a process of its own."""
    command = [sys.executable, "-P", "-m", "spac_repro", *kinds.arguments(rng.choice(kind.commands), folder)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    started = _time_of_children()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=WALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Answer(0, "", "", WALL_SECONDS)
    return Answer(done.returncode, done.stdout, done.stderr, _time_of_children() - started)


def prepared(kind: kinds.Kind, rng: random.Random, bases: Path, folder: Path) -> None:
    """Copy the valid folder of a kind and damage its file."""
    kinds.copy_base(bases, kind, folder)
    file = folder / kind.file
    file.write_bytes(mutations.mutate(rng, file.read_bytes(), kind.syntax))


def fuzz(
    bases: Path,
    work: Path,
    *,
    inputs: int,
    commands: int,
    seed: int,
    seconds: float = float("inf"),
    part: slice = slice(None),
    names: Collection[str] = (),
) -> tuple[Counter[str], list[str]]:
    """Hand in damaged files, until the time is over.

    Args:
        bases: The valid folders.
        work: Where the damaged ones are put.
        inputs: How many files are handed in within this process.
        commands: How many are handed in to whole commands, after those.
        seed: Draws every damage, together with the number of the input.
        seconds: The time.
        part: Of all inputs and commands, the ones that are handed in.
        names: Of the kinds that are handed in; all if there is none.

    Returns:
        The number of answers by kind and exit code, and a line for each failure.
    """
    available = [kind for kind in kinds.KINDS if (bases / kind.base).is_dir() and (not names or kind.name in names)]
    counts: Counter[str] = Counter()
    failures = []
    end = time.perf_counter() + seconds
    for number in range(inputs + commands)[part]:
        if time.perf_counter() > end:
            break
        whole = number >= inputs
        choices = [kind for kind in available if kind.commands] if whole else available
        kind = choices[number % len(choices)]
        rng = random.Random(f"{seed}:{number}")
        folder = work / "input"
        prepared(kind, rng, bases, folder)
        answer = as_command(kind, rng, folder) if whole else in_process(kind, rng, folder)
        counts[f"kind {kind.name}, exit {answer.code}"] += 1
        counts[f"{'command' if whole else 'in process'}: exit {answer.code}"] += 1
        if found := problem(answer, kind):
            shutil.copytree(folder, work / f"failure-{number}")
            failures.append(f"{number} {kind.name}: {found}; {' '.join(answer.error.split())[-300:]}")
            print(failures[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024) > BYTES:
        failures.append(f"memory: {peak:,} bytes")
    return counts, failures


def main() -> int:
    """Parse the command line, hand in the files, print the counts and the failures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--commands", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--part", default=":", help="FIRST:END, to hand in a part of all inputs and commands")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in kinds.KINDS], help="one kind; may be repeated")
    parser.add_argument("--without-models", action="store_true", help="leave out model folders, which need torch")
    options = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    work = Path(tempfile.mkdtemp(prefix="spac-repro-fuzz-"))
    tempfile.tempdir = str(work / "temporary")
    Path(tempfile.tempdir).mkdir()
    kinds.write_bases(work / "bases")
    if not options.without_models:
        kinds.write_model(work / "bases" / "model")
        kinds.write_adapter(work / "bases" / "adapter")
    started = time.perf_counter()
    first, _, end = options.part.partition(":")
    counts, failures = fuzz(
        work / "bases",
        work,
        inputs=options.inputs,
        commands=options.commands,
        seed=options.seed,
        seconds=options.seconds,
        part=slice(int(first or 0), int(end) if end else None),
        names=options.kind or (),
    )
    for name, count in sorted(counts.items()):
        print(f"{name}: {count}")
    print(f"failures: {len(failures)}; {time.perf_counter() - started:.0f} s; files in {work}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
