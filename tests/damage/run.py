"""Every file of a finished and of an unfinished run, damaged in every way, under every command that reads runs.

A case ends well if the command refuses the run in one line, or says no number that it does not say of the undamaged run. What
`train` says of an unfinished run is done, and must lead to the bits of the undamaged run.

    python tests/damage/run.py                    # all cases
    python tests/damage/run.py --cases 30         # so many of them, drawn with --seed
"""

import argparse
import hashlib
import itertools
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import commands
import crash
from commands import Finished

from spac_repro.launchers import matrix
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster
from spac_repro.launchers.sweep_folder import SweepFolder

LONGEST = 300  # characters of an error
LOOKED_AT = ("files", "weights_read", "unfinished", "equal_up_to", "summary")  # the last two are said of the others
RUN, OTHER, TWIN = "sweep/spac/seed-0", "other", "twin"  # the damaged run; one of another seed; the same undamaged


# Damages: each gets the file and the file of the same name in a run of another seed.


def flip(path: Path, other: Path) -> None:
    """Flip one bit, which the file's name chooses."""
    content = bytearray(path.read_bytes())
    if content:
        bit = int(hashlib.sha256(str(path).encode()).hexdigest(), 16) % (8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        _replace(path, bytes(content))


def change_digit(path: Path, other: Path) -> None:
    """Change one digit of a text, so that it is still well-formed; flip a bit elsewhere."""
    content = path.read_bytes()
    digits = [match.start() for match in re.finditer(rb"(?<=[ .\d\[])\d(?=[\d.,\n\]])", content)]
    if path.suffix not in (".json", ".jsonl") or not digits:
        return flip(path, other)
    place = digits[int(hashlib.sha256(str(path).encode()).hexdigest(), 16) % len(digits)]
    digit = b"%d" % ((int(content[place : place + 1]) + 1) % 10)
    _replace(path, content[:place] + digit + content[place + 1 :])
    return None


def truncate(path: Path, other: Path) -> None:
    """Drop the second half."""
    _replace(path, path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, other: Path) -> None:
    """Leave no byte."""
    _replace(path, b"")


def delete(path: Path, other: Path) -> None:
    """Remove the file, or the folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def make_folder(path: Path, other: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def link_elsewhere(path: Path, other: Path) -> None:
    """Put a link to another run's file or folder in its place, or a link to nothing."""
    delete(path, other)
    path.symlink_to(other.absolute())


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # the copies of a run share their files
    path.write_bytes(content)


DAMAGES = (flip, change_digit, truncate, empty, delete, make_folder, link_elsewhere)
FOLDER_DAMAGES = ("delete", "link_elsewhere")


# Commands: arguments, and what of their answer is numbers


def last_files(place: Path, done: Finished) -> dict[str, str]:
    """The bits of the run itself. Those of iterates that were removed cannot be compared."""
    return {name: sha256 for name, sha256 in crash.content(place / RUN).items() if not name.endswith("README.md")}


def answer(place: Path, done: Finished) -> set[str]:
    """The leaves of the JSON that a command prints, without those that say what was looked at."""
    found = json.loads(done.out)
    return {f"{key} = {value}" for key, value in _leaves(found) if key.split(".")[0] not in LOOKED_AT}


def page(place: Path, done: Finished) -> set[str]:
    """The lines of the report that have a digit, without those that say what is there and was checked; figures are marked."""
    html = (place / "report.html").read_text()
    parts = re.split(r"(<svg.*?</svg>)", html, flags=re.DOTALL)
    lines = {("figure " if part.startswith("<svg") else "") + line.strip() for part in parts for line in part.splitlines()}
    return {line for line in lines if re.search(r"\d", line) and not re.search(r"not complete|>checked: ", line)}


def table(place: Path, done: Finished) -> set[str]:
    """The lines of the table of the sweep."""
    return set((place / "tables" / "results.csv").read_text().splitlines())


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if pairs is None:
        yield prefix.removesuffix("."), tree
    else:
        for key, value in pairs:
            yield from _leaves(value, f"{prefix}{key}.")


class Command(NamedTuple):
    """A command about the run: its arguments, and what it says in numbers."""

    arguments: list[str]
    numbers: Callable[[Path, Finished], Any]


COMMANDS = {
    "train": Command(commands.train_arguments(RUN), last_files),
    "verify": Command(["verify", RUN, "--json"], answer),
    "evaluate": Command(["evaluate", RUN, "--suite", "mini", "--limit", "2", "--tasks", "mini_arc", "--json"], answer),
    "compare": Command(["compare", RUN, TWIN, "--json"], answer),
    "collect": Command(["sweep", "collect", "sweep", "--out", "tables", "--json"], table),
    "report": Command(["report", RUN, "-o", "report.html"], page),
}
UNFINISHED = ("train", "evaluate", "compare", "report")  # verify refuses such a run, and collect does not read it


class Case(NamedTuple):
    """A damaged file and a command."""

    state: str
    file: str
    damage: str
    command: str

    def __str__(self) -> str:
        return f"{self.command} of a {self.state} run, {self.file}: {self.damage}"


class Laboratory:
    """Finished and unfinished runs, and what the commands say about them while they are whole."""

    def __init__(self, work: Path) -> None:
        self.work = work
        whole = commands.trained(work / "made")
        commands.trained(work / "other", "run", "--seed", "1")
        self.states = {"finished": whole}
        self.states["training"] = self._stopped("training", "iteration-1/training/step-0000003")
        self.states["sampling"] = self._stopped("sampling", "iteration-2/selfplay/batch-00003.json")
        self.other = work / "other" / "run"
        self.whole: dict[tuple[str, str], tuple[int, Any]] = {}

    def _stopped(self, state: str, reached: str) -> Path:
        """A run that was killed when this had taken its name."""
        place = self.work / state
        place.mkdir()
        done = commands.spac_repro(commands.train_arguments("run"), place, crash.die_after(f"run/{reached}"))
        assert done.code == crash.KILLED, done.err
        return place / "run"

    def cases(self) -> list[Case]:
        """All cases: of the run that was sampling, the files that the others have not."""
        damages = [damage.__name__ for damage in DAMAGES]
        found = []
        for state, run in self.states.items():
            files = [path.relative_to(run).as_posix() for path in sorted(run.rglob("*")) if path.is_file()]
            if state == "sampling":
                files = [file for file in files if "/selfplay/" in file or file == "manifest.json"]
            names = COMMANDS if state == "finished" else UNFINISHED
            found += [Case(state, *rest) for rest in itertools.product(files, damages, names)]
            folders = [path.relative_to(run).as_posix() for path in sorted(run.rglob("*")) if path.is_dir()]
            found += [Case(state, *rest) for rest in itertools.product(folders, FOLDER_DAMAGES, names) if state != "sampling"]
        return found

    def prepared(self, state: str) -> Path:
        """A folder with a copy of the run, its twin, the other run, and a sweep that the run belongs to."""
        place = self.work / "place"
        shutil.rmtree(place, ignore_errors=True)
        for source, target in ((self.states[state], RUN), (self.states["finished"], TWIN), (self.other, OTHER)):
            shutil.copytree(source, place / target, symlinks=True)
        sweep = SweepFolder(place / "sweep", "sweep", Cluster.load("local"))
        settings = dict(setting.split("=") for setting in commands.cut_down.SETTINGS)
        fixed = {key: int(value) for key, value in settings.items()}
        sweep.add(matrix.runs(Sweep(name="sweep", summary="s", recipe="tiny", seeds=[0], methods=["spac"], settings=fixed)))
        assert [str(sweep.run_folder(run).path) for run in sweep.runs.values()] == [str(place / RUN)]
        sweep.save()
        return place

    def expected(self, state: str, command: str) -> tuple[int, Any]:
        """Exit code and numbers of a command about the undamaged run."""
        if (state, command) not in self.whole:
            place = self.prepared(state)
            done = commands.spac_repro(COMMANDS[command].arguments, place)
            assert "Traceback" not in done.err, done.err
            assert done.code in (0, 1, 2), done
            commands.import_as(place)
            numbers = COMMANDS[command].numbers(place, done)
            if command == "train":  # the run that nothing disturbed, whatever was left of this one
                numbers = last_files(place, done)
            self.whole[state, command] = done.code, numbers
        return self.whole[state, command]

    def outcome(self, case: Case) -> tuple[str, str]:
        """What the command said of the damaged run: detected, harmless or WRONG; and the details."""
        code, numbers = self.expected(case.state, case.command)
        place = self.prepared(case.state)
        path, other = place / RUN / case.file, place / OTHER / case.file
        next(damage for damage in DAMAGES if damage.__name__ == case.damage)(path, other)
        done = commands.spac_repro(COMMANDS[case.command].arguments, place)
        return self._judged(case, place, done, code, numbers)

    def _judged(self, case: Case, place: Path, done: Finished, code: int, numbers: Any) -> tuple[str, str]:
        if done.code in (2, 3) and (code != 2 or done.err):
            lines = done.err.splitlines()
            last = lines[-1] if lines else ""
            one_line = case.command == "train" or len(lines) == 1
            well_said = one_line and last.startswith("spac-repro: ") and len(last) <= LONGEST + len("spac-repro: ")
            if not well_said or "Traceback" in done.err:
                return "WRONG", f"not said in one line: {lines[-4:]}"
            if case.command == "train" and case.state != "finished":
                return self._followed(place, last, numbers)
            return "detected", last
        if done.code != code:
            return "WRONG", f"exit code {done.code}: {done.err.splitlines()[-3:]}"
        found = COMMANDS[case.command].numbers(place, done)
        if isinstance(found, set) and case.damage == "delete":  # a figure of less data has other axes
            found = {line for line in found if not line.startswith("figure ") and not line.endswith("= None")}
        if (isinstance(found, set) and found <= numbers) or found == numbers:
            return "harmless", ""
        if case.command == "train" and case.state == "finished":
            other = [name for name in found if found[name] != numbers.get(name) and not name.startswith(case.file)]
            return ("WRONG", f"{other} changed") if other else ("harmless", "no number is read from it")
        return "WRONG", f"other numbers: {_first_difference(found, numbers)}"

    def _followed(self, place: Path, said: str, numbers: Any) -> tuple[str, str]:
        """Do what `train` says until it ends: remove what it names, and repeat the command."""
        line = said
        for _ in range(5):
            named = re.search(rf"remove ({RUN}\S*?)[,;:]? |^spac-repro: ({RUN}\S+?):? .*remove it", line)
            if not named:
                return "detected", said
            path = place / next(filter(None, named.groups()))
            if path == place / RUN or not (path.exists() or path.is_symlink()):
                return "WRONG", f"the remedy names nothing: {line}"
            delete(path, path)
            done = commands.spac_repro(COMMANDS["train"].arguments, place)
            if done.code in (0, 1):
                found = last_files(place, done)
                return (
                    ("mended", said)
                    if found == numbers
                    else ("WRONG", f"mended to other bits: {_first_difference(found, numbers)}")
                )
            line = done.err.splitlines()[-1]
        return "WRONG", f"the remedy leads nowhere: {said} … {line}"


def _first_difference(found: Any, numbers: Any) -> str:
    if isinstance(found, set):
        return str(sorted(found - numbers)[:2])[:300]
    return str([name for name in sorted(found.keys() | numbers.keys()) if found.get(name) != numbers.get(name)][:4])


def main() -> None:
    """Print tables in Markdown; exit with 1 if a case went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose text matches this expression")
    parser.add_argument("--log", type=Path, help="file for a line a case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spac-repro-damage-") as folder:
        laboratory = Laboratory(Path(folder))
        cases = [case for case in laboratory.cases() if re.search(options.only, str(case))]
        if options.cases:
            cases = random.Random(options.seed).sample(cases, min(options.cases, len(cases)))
        by_command: Counter[tuple[str, str, str]] = Counter()
        by_damage: Counter[tuple[str, str]] = Counter()
        wrong = 0
        log = options.log.open("w") if options.log else sys.stderr
        for case in cases:
            outcome, details = laboratory.outcome(case)
            by_command[case.state, case.command, outcome] += 1
            by_damage[case.damage, outcome] += 1
            wrong += outcome == "WRONG"
            if options.log or outcome == "WRONG":
                print(f"{outcome}: {case}: {details}", file=log, flush=True)
    for head, counts in (("run | command", by_command), ("damage", by_damage)):
        columns = ("harmless", "detected", "mended", "WRONG")
        print(f"| {head} | {' | '.join(columns)} |\n|{' --- |' * (head.count('|') + 1 + len(columns))}")
        for key in dict.fromkeys(key[:-1] for key in sorted(counts)):
            print(f"| {' | '.join(key)} | {' | '.join(str(counts[(*key, outcome)]) for outcome in columns)} |")  # type: ignore[index]
        print()
    print(f"{len(cases)} cases, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
