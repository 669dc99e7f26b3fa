"""The suites of leaderboard tasks: those of the package, and folders of the user's own task files.

A task is one YAML file. To add a task to a suite of your own, add a file to its folder (docs/leaderboard.md). To add a task to a
suite of the package, add a file to evaluation/leaderboard/tasks/SUITE/ and its name to the entry here. evaluation/leaderboard/
reads the task files. This module imports neither torch nor lm-eval.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from spac_repro.documents.base_model import Settings
from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError
from spac_repro.registry import import_object

TASKS_FOLDER = Path(__file__).parent / "evaluation" / "leaderboard" / "tasks"
SUITE_FILE = "suite.yaml"  # in a user's folder: name and summary of the suite

HARNESS = "lm-eval:"  # in front of tasks that are lm-eval's own
NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_.-]{0,99}"  # of a suite's name


@dataclass(frozen=True)
class Suite:
    """A suite of tasks. Other modules read its properties here and never test its name."""

    name: str  # as in a run's settings and beside scores
    summary: str
    task_files: tuple[Path, ...]  # one task each, in the order of the scores
    question_generator: str | None = None  # "module:function" that generates the questions from the built-in world
    folder: Path | None = None  # of a user's suite; None: a suite of the package
    harness_tasks: tuple[str, ...] = ()  # of lm-eval itself, in place of task files

    @property
    def has_tasks(self) -> bool:
        """Whether the suite has any task. The suite `none` has none."""
        return bool(self.task_files or self.harness_tasks)

    @property
    def task_names(self) -> tuple[str, ...] | None:
        """The names of the tasks of a suite of the package; None for a user's, whose files have to be read for them."""
        return self.harness_tasks or (tuple(file.stem for file in self.task_files) if self.folder is None else None)

    @property
    def uses_world(self) -> bool:
        """Whether the questions are generated from the built-in world. Otherwise they come from files or from the hub."""
        return self.question_generator is not None

    def under(self, protocol: str) -> "Suite":
        """The suite with the task files that a protocol has of its own in place of the suite's."""
        own = [file.parent / protocol / file.name for file in self.task_files]
        files = tuple(
            mine if self.folder is None and mine.is_file() else file for mine, file in zip(own, self.task_files, strict=True)
        )
        return replace(self, task_files=files)

    def file_hashes(self) -> dict[str, str] | None:
        """Return the SHA-256 of each file of a user's suite, by file name.

        None for a suite of the package: the package's version identifies it.
        """
        if self.folder is None:
            return None
        suite_file = [file for file in (self.folder / SUITE_FILE,) if file.is_file()]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (*self.task_files, *suite_file)}

    def load_question_generator(self) -> Callable[[Any], Any]:
        """Import the function that generates the questions from a world: {task: {split: rows}}."""
        assert self.question_generator is not None
        generator: Callable[[Any], Any] = import_object(self.question_generator)
        return generator


class SuiteInfo(Settings):
    """The optional suite.yaml of a user's suite."""

    suite: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")] | None = None  # the suite's name; None: the folder's name
    summary: str = ""


def _builtin(name: str, summary: str, *tasks: str, question_generator: str | None = None) -> Suite:
    return Suite(name, summary, tuple(TASKS_FOLDER / name / f"{task}.yaml" for task in tasks), question_generator)


_SUITES = (
    _builtin(
        "mini",
        "six small tasks about the built-in world of recipe tiny",
        "mini_arc",
        "mini_hellaswag",
        "mini_truthfulqa",
        "mini_mmlu",
        "mini_winogrande",
        "mini_gsm8k",
        question_generator="spac_repro.evaluation.leaderboard.mini:mini_questions",
    ),
    _builtin(
        "openllm",
        "the six tasks of the Open LLM Leaderboard v1",
        "arc_challenge",
        "hellaswag",
        "truthfulqa_mc2",
        "mmlu",
        "winogrande",
        "gsm8k",
    ),
)
NONE = Suite("none", "no tasks", ())


def names() -> tuple[str, ...]:
    """Return the name of every suite of the package that has tasks."""
    return tuple(suite.name for suite in _SUITES)


def builtin() -> tuple[Suite, ...]:
    """Return the suites of the package that have tasks."""
    return _SUITES


def get(name: str) -> Suite:
    """Return the suite of this name, or the suite whose task files are in this folder.

    Raises:
        UserError: There is no such suite, or the folder has no task files, or its suite.yaml is not valid.
    """
    for suite in (*_SUITES, NONE):
        if suite.name == name:
            return suite
    if name.startswith(HARNESS):
        return _harness_suite(name)
    if name and Path(name).is_dir():
        return _user_suite(Path(name))
    known = [*names(), NONE.name]
    others = f"or a folder of task files; {HARNESS}TASK,… are tasks of lm-eval"
    raise UserError(f"unknown suite {name!r}{did_you_mean(name, known)}; choose {', '.join(known)}, {others}")


def of_recipe(name: str) -> Suite:
    """Return the suite of this name, or in this folder, for a recipe.

    Raises:
        UserError: as in `get`; or it holds tasks of lm-eval, whose questions a run could not hash.
    """
    suite = get(name)
    if suite.harness_tasks:
        raise UserError(f"{name} is for `evaluate --suite`; in a recipe, give a suite of the package or a folder of task files")
    return suite


def _harness_suite(name: str) -> Suite:
    """Make a suite of tasks of lm-eval, which whoever asks them looks up."""
    tasks = tuple(task.strip() for task in name.removeprefix(HARNESS).split(","))
    if not all(tasks) or len({*tasks}) < len(tasks):
        raise UserError(f"{name!r}: name each task of lm-eval once, as in {HARNESS}arc_easy,piqa")
    return Suite(HARNESS + ",".join(tasks), "tasks of lm-eval", (), harness_tasks=tasks)


def _user_suite(folder: Path) -> Suite:
    """Make a suite of the YAML files of a folder, in the order of their names."""
    files = tuple(sorted(file for file in folder.glob("*.yaml") if file.name != SUITE_FILE))
    if not files:
        raise UserError(f"{folder}: no task files; a suite is a folder with one YAML file per task (docs/leaderboard.md)")
    info = _suite_info(folder)
    name = info.suite or folder.resolve().name
    if name in (*names(), NONE.name) or not re.fullmatch(NAME_PATTERN, name):
        problem = "is the name of another suite" if re.fullmatch(NAME_PATTERN, name) else "is not a valid suite name"
        raise UserError(f"{folder}: {name!r} {problem}; write another name into {SUITE_FILE}: `suite: my_suite`")
    return Suite(name, info.summary, files, folder=folder)


def _suite_info(folder: Path) -> SuiteInfo:
    from spac_repro.documents import yaml_subset
    from spac_repro.documents.validation import validate

    if not (folder / SUITE_FILE).exists():
        return SuiteInfo()
    document = yaml_subset.read(folder / SUITE_FILE)
    return validate(SuiteInfo, document.value, document)
