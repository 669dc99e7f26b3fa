"""The same command, to be carried out inside an image: its arguments, and what it reads and writes outside.

Every file or folder appears inside at the path it has outside, so that what the command says means the same in both places.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.errors import UnfitEnvironmentError, UserError

# What the caller's environment may decide inside too; nothing else of it gets in.
PASSED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "SLURMD_NODENAME", "TERM")


@dataclass(frozen=True)
class Command:
    """Arguments of spac-repro, and the paths that they name: `reads` are mounted read-only."""

    arguments: tuple[str, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]


@dataclass(frozen=True)
class Limits:
    """What a container may do and have. `memory` as the engines write it: 512m, 8g.

    Raises:
        UserError: the memory is no size.
    """

    memory: str | None = None
    network: bool = False
    other_version: bool = False

    def __post_init__(self) -> None:
        if self.memory is not None and not re.fullmatch(r"[1-9][0-9]*[bkmg]?", self.memory):
            raise UserError(f"--memory {self.memory} is no size; write a whole number and b, k, m or g, e.g. 8g")


def command(name: Sequence[str], parameters: Iterable[Any], values: dict[str, Any], *, out: Path, leave: Sequence[str]) -> Command:
    """Write a parsed command line anew, with absolute paths.

    Args:
        name: the command, e.g. ("train",).
        parameters: its parameters as typer declares them.
        values: their values.
        out: the folder that the command writes to; it takes the place of `--out`.
        leave: names of parameters that are for outside.

    Raises:
        UserError: a path that does not exist.
    """
    words = list(name)
    reads: list[Path] = []
    for parameter in parameters:
        value = values.get(parameter.name)
        if parameter.name in leave or value is None or value == parameter.default or value is False:
            continue
        many = list(value) if isinstance(value, list | tuple) else [value]
        written = [_written(item, reads) for item in many]
        if parameter.param_type_name == "argument":
            words += written
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [word for item in written for word in (parameter.opts[0], item)]
    out = out.absolute()
    if any(parameter.name == "out" for parameter in parameters):
        words += ["--out", str(out)]
    return Command(tuple(words), tuple(dict.fromkeys(reads)), (out,))


def _written(value: Any, reads: list[Path]) -> str:
    """A value as a word of the command line; a path is noted, and made absolute."""
    if isinstance(value, Path):
        path = value.expanduser().absolute()
        if not path.exists():
            raise UserError(f"{value} does not exist, so it cannot be mounted into the image; see to the path")
    elif isinstance(value, str) and ("/" in value or "." in value) and Path(value).expanduser().exists():
        path = Path(value).expanduser().absolute()  # a recipe or preferences may be a name or a file
    else:
        return str(value)
    reads.append(path)
    return str(path)


@contextmanager
def mounted(command: Command) -> Iterator[None]:
    """See to the folders that are written to while a container runs; those made for nothing are removed.

    Raises:
        UserError: a file stands in a folder's way.
        UnfitEnvironmentError: a folder cannot be made or written to.
    """
    made = [path for folder in command.writes for path in (folder, *folder.parents) if not path.exists()]
    try:
        for folder in command.writes:
            _make(folder)
        yield
    finally:
        for path in made:
            with suppress(OSError):  # something is in it: then it was not for nothing
                path.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} cannot be a run folder: a file stands in its way; choose another folder with --out") from None
    except OSError as error:
        raise UnfitEnvironmentError(f"cannot make {folder}: {error.strerror}; choose another folder with --out") from None
    if not os.access(folder, os.W_OK):
        raise UnfitEnvironmentError(f"cannot write to {folder}, so the image could not either; choose another folder with --out")


def cache() -> Path | None:
    """The caller's Hugging Face cache, where there is one: models and data that were fetched before are found inside too."""
    folder = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser().absolute()
    return folder if folder.is_dir() else None


def variables(digest: str, limits: Limits) -> dict[str, str]:
    """The environment inside."""
    kept = {name: os.environ[name] for name in PASSED if name in os.environ}
    offline = {} if limits.network else {"HF_HUB_OFFLINE": "1"}  # so that a missing model is said at once
    hub = {"HF_HOME": str(folder)} if (folder := cache()) else {}
    return {**kept, **offline, **hub, "HOME": "/tmp", "SPAC_REPRO_IMAGE": digest}


def mounts(command: Command) -> list[tuple[Path, bool]]:
    """Paths to mount, and whether they are written to."""
    folder = cache()
    writes = [*command.writes, *([folder] if folder and os.access(folder, os.W_OK) else [])]
    reads = [*command.reads, *([folder] if folder and folder not in writes else [])]
    return [(path, True) for path in writes] + [(path, False) for path in reads if path not in writes]


def killed(where: str, limits: Limits, *, out_of_memory: bool) -> UnfitEnvironmentError:
    """Exit status 137 in words."""
    limit = f", beyond the {limits.memory} that --memory gives it" if limits.memory else ""
    what = f"ran out of memory{limit}" if out_of_memory else "was killed, most likely because the machine ran out of memory"
    return UnfitEnvironmentError(
        f"{where} {what} (exit status 137); give it more, or compute less at once (--set training.micro_batch_tokens=…). "
        "What was finished is kept, so repeat the command"
    )
