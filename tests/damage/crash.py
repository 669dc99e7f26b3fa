"""Every fsync, rename and removal of a cut-down run as a crash point: killed there, resumed, and compared with a run that was not.

python tests/damage/crash.py                 # all points
python tests/damage/crash.py --sample 8      # so many of them, drawn with --seed
python tests/damage/crash.py --kills 50      # killed at random times instead

python tests/damage/crash.py --kills 50 --keep FOLDER --seconds 200    # a part of them; the same command goes on
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import commands

from spac_repro.runs import environment, file_hashes, files
from spac_repro.runs.folder import RunFolder

CALLS = ("fsync", "replace", "rename", "unlink", "rmdir")
KILLED = 137
MORE: list[str] = []  # arguments of `train`
# What equal runs may differ in: clocks, the date, and the names of TensorBoard's files.
DIFFERENT = ("timing.json", "ro-crate-metadata.json", "tensorboard")


def count_calls(log: Path) -> commands.Hook:
    """The hook that writes down every crash point, one a line."""

    def hook() -> None:
        file = log.open("w")
        _wrap(lambda what: print(what, file=file, flush=True))

    return hook


def die_at(number: int) -> commands.Hook:
    """The hook that ends the process, as kill -9 does, at the crash point of this number, from 0."""

    def hook() -> None:
        left = iter(range(number, -1, -1))
        _wrap(lambda what: os._exit(KILLED) if next(left) == 0 else None)

    return hook


def die_after(target: str) -> commands.Hook:
    """The hook that ends the process when a file or folder has taken this name."""

    def hook() -> None:
        before = os.replace

        def replace(source: Any, target_: Any, **options: Any) -> None:
            before(source, target_, **options)
            if str(target_) == target:
                os._exit(KILLED)

        os.replace = replace  # type: ignore[assignment]

    return hook


def _wrap(reached: Callable[[str], Any]) -> None:
    """Call `reached` before and after every call that changes what a crash leaves."""
    for name in CALLS:
        setattr(os, name, _wrapped(name, getattr(os, name), reached))


def _wrapped(name: str, call: Callable[..., Any], reached: Callable[[str], Any]) -> Callable[..., Any]:
    def wrapped(place: Any, *arguments: Any, **options: Any) -> Any:
        where = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else place
        reached(f"before {name} {where}")
        done = call(place, *arguments, **options)
        reached(f"after {name} {where}")
        return done

    return wrapped


def content(run: Path) -> dict[str, str]:
    """The hash of every file of a run that equal runs have in common, by path; empty folders as well."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if not name.startswith(DIFFERENT):
            found[name] = files.sha256_file(path) if path.is_file() else "folder"
    return found


def difference(run: Path, whole: Path) -> str | None:
    """The first file in which a finished run differs from one that nothing disturbed; None if there is none."""
    ours, theirs = content(run), content(whole)
    if name := next((name for name in sorted(ours.keys() ^ theirs.keys())), None):
        return f"{name} is {'left behind' if name in ours else 'missing'}"
    if name := next((name for name in ours if ours[name] != theirs[name]), None):
        return f"{name} has other bits"
    file_hashes.check(RunFolder(run), deep=True)
    return None


def resumed(place: Path, whole: Path) -> str | None:
    """Resume the run in `place`; what is wrong with it in the end, or None."""
    done = commands.spac_repro(commands.train_arguments("run", *MORE), place)
    if done.code != 0:
        return f"exit code {done.code}: {done.err.splitlines()[-1:]}"
    return difference(place / "run", whole)


def keep_states(folder: Path, log: Path) -> commands.Hook:
    """The hook that copies what a crash would leave at every crash point, one copy of equal ones, and writes down the points."""

    def hook() -> None:
        file, run, keeping = log.open("w"), Path("run").absolute(), [False]

        def reached(what: str) -> None:
            if keeping[0]:
                return
            keeping[0] = True  # copying makes calls of its own
            state = _state(run)
            print(f"{state} {what}", file=file, flush=True)
            if run.exists() and not (folder / state).exists():
                shutil.copytree(run, folder / state / "run", symlinks=True)
            keeping[0] = False

        _wrap(reached)

    return hook


def crash_points(work: Path, whole: Path) -> Iterator[tuple[str, str | None]]:
    """Resume what a crash leaves at every crash point of a run: the point, and what went wrong."""
    log, states, place = work / "points", work / "states", work / "counted"
    states.mkdir()
    place.mkdir()
    done = commands.spac_repro(commands.train_arguments("run", *MORE), place, keep_states(states, log))
    assert done.code == 0, done.err
    outcomes: dict[str, str | None] = {}
    for line in log.read_text().splitlines():
        state, _, point = line.partition(" ")
        if state not in outcomes:
            outcomes[state] = resumed(states / state, whole) if (states / state).exists() else None
            shutil.rmtree(states / state, ignore_errors=True)
        yield point, outcomes[state]


def sampled_points(work: Path, sample: int, whole: Path, seed: int) -> Iterator[tuple[str, str | None]]:
    """Kill a run at some crash points and resume it: the point, and what went wrong."""
    log, place = work / "points", work / "crashed"
    place.mkdir()
    commands.spac_repro(commands.train_arguments("run", *MORE), place, count_calls(log))
    points = log.read_text().splitlines()
    for number in sorted(random.Random(seed).sample(range(len(points)), sample)):
        shutil.rmtree(place)
        place.mkdir()
        code = commands.spac_repro(commands.train_arguments("run", *MORE), place, die_at(number)).code
        assert code == KILLED, f"crash point {number} was not reached (exit code {code})"
        yield points[number], resumed(place, whole)


def _state(place: Path) -> str:
    """A hash of what a crash left, without clocks and random names."""
    left = []
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        named = [".partial" if part.endswith(files.PARTIAL) else part for part in name.split("/")]
        same = "tensorboard" in name or path.name in ("timing.json", ".owner.json") or not path.is_file()
        left.append(["/".join(named), "" if same else files.sha256_file(path)])
    return files.sha256_json(sorted(left))


def random_kill(number: int, work: Path, whole: Path, seed: int, seconds: float) -> tuple[str, str | None]:
    """Kill a run at a random time and resume it.

    Args:
        number: of the kill; together with the seed it draws the time.
        work: where the run is put.
        whole: the run that nothing disturbed.
        seed: the other part of what draws the time.
        seconds: how long an undisturbed run takes.

    Returns:
        The stage that the run was in, and what went wrong.
    """
    place = work / "killed"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    process = commands.start(commands.train_arguments("run", *MORE), place)
    time.sleep(random.Random(f"{seed}:{number}").uniform(0, seconds))
    commands.kill(process)
    while RunFolder(place / "run").in_use:  # other processes of the run end a moment later
        time.sleep(0.05)
    return stage(place / "run"), resumed(place, whole)


def random_kills(work: Path, options: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """Kill a run at random times. The undisturbed run and the outcomes are kept in `work`, and an interrupted campaign goes on.

    Yields:
        The stages that the runs were in, and what went wrong; the outcomes of earlier commands first.

    Raises:
        SystemExit: the folder has the outcomes of another campaign.
    """
    file, end = work / "campaign.json", time.monotonic() + options.seconds
    wanted = {"seed": options.seed, "set": options.set, "source": environment.source_revision()}
    if file.exists():
        campaign = json.loads(file.read_text())
        if wanted != {key: campaign[key] for key in wanted}:
            sys.exit(f"{work} has kills of another seed, setting or commit: give another folder, or delete it")
        commands.import_as(work / "whole")
    else:
        commands.trained(work / "whole", "run", *MORE)
        shutil.rmtree(work / "timed", ignore_errors=True)
        begin = time.monotonic()
        commands.trained(work / "timed", "run", *MORE)
        campaign = {**wanted, "seconds": time.monotonic() - begin, "outcomes": []}
        files.write_json(file, campaign)
    outcomes = campaign["outcomes"]
    yield from outcomes
    for number in range(len(outcomes), options.kills):
        if time.monotonic() > end:
            break
        outcomes.append(random_kill(number, work, work / "whole" / "run", options.seed, campaign["seconds"]))
        files.write_json(file, campaign)
        yield outcomes[-1]


def stage(run: Path) -> str:
    """The stage that a killed run was in."""
    folder = RunFolder(run)
    if not folder.has_manifest:
        return "before the manifest"
    if folder.complete:
        return "after the results"
    for t in range(9):
        each = folder.iteration(t)
        if not each.has_policy:
            within = "training" if t == 0 or each.has_dataset else "self-play"
            return f"iteration {t}, {within}"
        if not each.has_scores:
            return f"iteration {t}, scores"
    return "results"


def cases(work: Path, options: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """The cases that the command line asks for: where the run was killed, and what went wrong."""
    if options.kills:
        yield from random_kills(work, options)
        return
    whole = commands.trained(work / "whole", "run", *MORE)
    outcomes = sampled_points(work, options.sample, whole, options.seed) if options.sample else crash_points(work, whole)
    for point, reason in outcomes:
        yield " ".join(point.split()[:2]), reason and f"{point}: {reason}"


def main() -> None:
    """Print a table in Markdown; exit with 1 if a resumed run differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a setting of the run, as `train` takes it")
    parser.add_argument("--keep", type=Path, help="with --kills: a folder for what is done; the same command goes on with it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="with --keep: begin no kill after this time")
    options = parser.parse_args()
    if options.keep and not options.kills:
        parser.error("--keep is for --kills")
    MORE.extend(part for setting in options.set for part in ("--set", setting))
    table: Counter[tuple[str, str]] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="spac-repro-crash-") as folder:
        for what, reason in cases(options.keep or Path(folder), options):
            table[what, reason or "the same bits, nothing left behind"] += 1
            if reason:
                wrong += 1
                print(f"{what}: {reason}", file=sys.stderr, flush=True)
    print("| killed | resumed | count |\n| --- | --- | --- |")
    for (what, outcome), count in sorted(table.items()):
        print(f"| {what} | {outcome} | {count} |")
    done = sum(table.values())
    rest = f" of {options.kills}" if options.kills and done < options.kills else ""
    print(f"\n{done}{rest} cases, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
