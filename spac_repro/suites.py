"""The suites of leaderboard tasks, one entry each, or a folder of one's own: what others must know of them.

A task is one YAML file. To add one to a suite of one's own: a file in its folder, and nothing else (docs/leaderboard.md). To add
one to a suite of this package: a file in evaluation/leaderboard/tasks/SUITE/, and its name in the entry here. The tasks themselves
are read in evaluation/leaderboard/; neither torch nor the harness is imported here.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from spac_repro.documents.settings import Settings
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.registry import import_object

TASKS_FOLDER = Path(__file__).parent / "evaluation" / "leaderboard" / "tasks"
SUITE_FILE = "suite.yaml"  # in a folder of one's own: what is said about the whole

NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_.-]{0,99}"  # of a suite


@dataclass(frozen=True)
class Suite:
    """A suite's facts; others ask for them here and never read its name."""

    name: str  # as in a run's settings and beside scores
    summary: str
    task_files: tuple[Path, ...]  # one task each, in the order of the scores; empty: nothing is asked
    question_generator: str | None = None  # "module:function" that makes the questions from the built-in world; None: they are read
    folder: Path | None = None  # of a suite of one's own

    @property
    def has_tasks(self) -> bool:
        """Whether anything is asked at all."""
        return bool(self.task_files)

    @property
    def uses_world(self) -> bool:
        """Whether the questions are made from the built-in world; otherwise they come from files or from the hub."""
        return self.question_generator is not None

    def identity(self) -> dict[str, str] | None:
        """The hash of each file of a suite of one's own; None for the package's, which the package's version identifies."""
        if self.folder is None:
            return None
        about = [file for file in (self.folder / SUITE_FILE,) if file.is_file()]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (*self.task_files, *about)}

    def load_question_generator(self) -> Callable[[Any], Any]:
        """The function that makes the questions from a world: {task: {split: rows}}."""
        assert self.question_generator is not None
        questions: Callable[[Any], Any] = import_object(self.question_generator)
        return questions


class SuiteInfo(Settings):
    """suite.yaml, which a suite of one's own may have."""

    suite: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")] | None = None  # its name; the folder's where this is left out
    summary: str = ""


def _builtin(name: str, summary: str, *tasks: str, question_generator: str | None = None) -> Suite:
    return Suite(name, summary, tuple(TASKS_FOLDER / name / f"{task}.yaml" for task in tasks), question_generator)


_SUITES = (
    _builtin(
        "mini",
        "the built-in world",
        "mini_arc",
        "mini_hellaswag",
        "mini_truthfulqa",
        "mini_mmlu",
        "mini_winogrande",
        "mini_gsm8k",
        question_generator="spac_repro.evaluation.leaderboard.mini:mini_items",
    ),
    _builtin("openllm", "Open LLM Leaderboard v1", "arc_challenge", "hellaswag", "truthfulqa_mc2", "mmlu", "winogrande", "gsm8k"),
)
NONE = Suite("none", "nothing is asked", ())


def names() -> tuple[str, ...]:
    """The name of every suite of the package that asks something."""
    return tuple(suite.name for suite in _SUITES)


def builtin() -> tuple[Suite, ...]:
    """The suites of the package."""
    return _SUITES


def get(name: str) -> Suite:
    """A suite by its name, or the one whose task files lie in a folder.

    Raises:
        UserError: there is none, or the folder holds none.
    """
    for suite in (*_SUITES, NONE):
        if suite.name == name:
            return suite
    if name and Path(name).is_dir():
        return _user_suite(Path(name))
    known = [*names(), NONE.name]
    raise UserError(f"unknown suite {name!r}{did_you_mean(name, known)}; take {', '.join(known)}, or a folder of task files")


def _user_suite(folder: Path) -> Suite:
    """A suite of one's own: the YAML files of a folder, in the order of their names."""
    files = tuple(sorted(file for file in folder.glob("*.yaml") if file.name != SUITE_FILE))
    if not files:
        raise UserError(f"{folder}: no task files; a suite is a folder with one YAML file a task (docs/leaderboard.md)")
    about = _suite_info(folder)
    name = about.suite or folder.resolve().name
    if name in (*names(), NONE.name) or not re.fullmatch(NAME_PATTERN, name):
        problem = "is the name of another suite" if re.fullmatch(NAME_PATTERN, name) else "is no name of a suite"
        raise UserError(f"{folder}: {name!r} {problem}; write another one into {SUITE_FILE}: `suite: my_suite`")
    return Suite(name, about.summary, files, folder=folder)


def _suite_info(folder: Path) -> SuiteInfo:
    from spac_repro.documents import yaml_subset
    from spac_repro.documents.validation import validate

    if not (folder / SUITE_FILE).exists():
        return SuiteInfo()
    document = yaml_subset.read(folder / SUITE_FILE)
    return validate(SuiteInfo, document.value, document)
