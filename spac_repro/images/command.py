"""A spac-repro command as it runs in a container: its arguments, mounts, environment variables and options.

Every file or folder is mounted at the path that it has on the host, so an argument means the same in both places.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spac_repro.data.row_sources import local_path
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.optim.distributed import TIMEOUT_VARIABLES
from spac_repro.optim.gpu_host import CACHE_VARIABLES

# The environment variables that are passed from the host into the container.
PASSED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "SLURMD_NODENAME",
    "TERM",
    *TIMEOUT_VARIABLES.values(),
)
# And NCCL's, but for those that name a network, which is not there.
PASSED_PATTERN = re.compile(r"NCCL_(?!SOCKET_|IB_(?!DISABLE)|NET|COMM_ID)\w+")


@dataclass(frozen=True)
class ContainerCommand:
    """Arguments of spac-repro, and the host paths that are mounted for them.

    Attributes:
        arguments: the command line after `spac-repro`.
        inputs: files and folders that it reads; mounted read-only.
        outputs: folders that it writes to.
    """

    arguments: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class ContainerOptions:
    """How a container is started.

    Attributes:
        memory: memory limit as container runtimes write it, e.g. 512m or 8g; None: no limit.
        network: allow the network.
        other_version: accept an image with another version of spac-repro.

    Raises:
        UserError: `memory` is not a size.
    """

    memory: str | None = None
    network: bool = False
    other_version: bool = False

    def __post_init__(self) -> None:
        if self.memory is not None and not re.fullmatch(r"[1-9][0-9]*[bkmg]?", self.memory):
            raise UserError(f"--memory {self.memory} is not a size; write a whole number and b, k, m or g, e.g. 8g")


def container_command(
    name: Sequence[str], parameters: Iterable[Any], values: dict[str, Any], *, out: Path, exclude: Sequence[str]
) -> ContainerCommand:
    """Turn a parsed command line back into arguments, with absolute paths, and collect the paths to mount.

    Args:
        name: the command, e.g. ("train",).
        parameters: its parameters as typer declares them.
        values: the parameters' values by name.
        out: the folder that the command writes to; replaces `--out`.
        exclude: names of parameters that only concern the host.

    Raises:
        UserError: a path does not exist.
    """
    arguments = list(name)
    inputs: list[Path] = []
    for parameter in parameters:
        value = values.get(parameter.name)
        if parameter.name in exclude or value is None or value == parameter.default or value is False:
            continue
        items = list(value) if isinstance(value, list | tuple) else [value]
        texts = [_as_argument(item, inputs) for item in items]
        if parameter.param_type_name == "argument":
            arguments += texts
        elif value is True:
            arguments.append(parameter.opts[0])
        else:
            arguments += [argument for text in texts for argument in (parameter.opts[0], text)]
    out = out.absolute()
    if any(parameter.name == "out" for parameter in parameters):
        arguments += ["--out", str(out)]
    return ContainerCommand(tuple(arguments), tuple(dict.fromkeys(inputs)), (out,))


def _as_argument(value: Any, inputs: list[Path]) -> str:
    """Return a value as a command-line argument. A path is made absolute and appended to `inputs`."""
    if isinstance(value, Path):
        path = value.expanduser().absolute()
        if not path.exists():
            raise UserError(f"{value} does not exist, so it cannot be mounted into the image; check the path")
    elif isinstance(value, str) and ":" in value and (split := local_path(value)[1]):  # preferences: FOLDER:SPLIT
        inputs.append(local_path(value)[0].absolute())
        return f"{inputs[-1]}:{split}"
    elif isinstance(value, str) and ("/" in value or "." in value) and Path(value).expanduser().exists():
        path = Path(value).expanduser().absolute()  # a recipe or preferences may be a name or a file
    else:
        return str(value)
    inputs.append(path)
    return str(path)


@contextmanager
def output_folders(command: ContainerCommand) -> Iterator[None]:
    """Create the command's output folders for as long as a container runs; afterwards remove new folders that stayed empty.

    Raises:
        UserError: a file exists at a folder's path.
        UnfitEnvironmentError: a folder cannot be created or written to.
    """
    created = [path for folder in command.outputs for path in (folder, *folder.parents) if not path.exists()]
    try:
        for folder in command.outputs:
            _create_folder(folder)
        yield
    finally:
        for path in created:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _create_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} cannot be created: a file is in its way; choose another folder with --out") from None
    except OSError as error:
        raise UnfitEnvironmentError(f"cannot create {folder}: {error.strerror}; choose another folder with --out") from None
    if not os.access(folder, os.W_OK):
        raise UnfitEnvironmentError(
            f"cannot write to {folder}, so the container could not either; choose another folder with --out"
        )


def hub_caches() -> dict[str, Path]:
    """The user's caches of models and data sets, by the variable that names them. The token beside them is not mounted."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    places = {"HF_HUB_CACHE": home / "hub", "HF_DATASETS_CACHE": home / "datasets"}
    found = {name: Path(os.environ.get(name, place)).expanduser().absolute() for name, place in places.items()}
    return {name: folder for name, folder in found.items() if folder.is_dir()}


def environment_variables(digest: str, options: ContainerOptions, *, caches: str) -> dict[str, str]:
    """The container's environment variables.

    Args:
        digest: the image's, which the run's manifest records.
        options: without the network, the hub is switched off, so that a missing model is reported at once.
        caches: folder in the container for compiled code, from which it can be loaded. HOME may be mounted without execution.
    """
    passed = {name: value for name, value in os.environ.items() if name in PASSED_VARIABLES or PASSED_PATTERN.fullmatch(name)}
    offline = {} if options.network else {"HF_HUB_OFFLINE": "1"}
    hub = {"HF_HOME": "/tmp/huggingface", **{name: str(folder) for name, folder in hub_caches().items()}}
    compiled = {name: f"{caches}/{folder}" for name, folder in CACHE_VARIABLES.items()}
    return {**passed, **offline, **hub, **compiled, "HOME": "/tmp", "SPAC_REPRO_IMAGE": digest}


def mounts(command: ContainerCommand, options: ContainerOptions) -> list[tuple[Path, bool]]:
    """The paths to mount, each with whether it is writable.

    Models are writable only where the network allows to download more. The data sets' library locks its cache even to read it.
    """
    caches = hub_caches()
    wanted = {"HF_HUB_CACHE": options.network, "HF_DATASETS_CACHE": True}
    writable = [*command.outputs, *(path for name, path in caches.items() if wanted[name] and os.access(path, os.W_OK))]
    read_only = [*command.inputs, *caches.values()]
    return [(path, True) for path in writable] + [(path, False) for path in dict.fromkeys(read_only) if path not in writable]


def killed_error(what: str, options: ContainerOptions, *, out_of_memory: bool) -> UnfitEnvironmentError:
    """The error for exit status 137 (SIGKILL).

    Args:
        what: what was killed, e.g. "the container".
        options: name the memory limit, if there was one.
        out_of_memory: the runtime reports that memory ran out; otherwise that is only the likely cause.
    """
    limit = f", beyond the limit of {options.memory} (--memory)" if options.memory else ""
    problem = f"ran out of memory{limit}" if out_of_memory else "was killed, most likely because the machine ran out of memory"
    return UnfitEnvironmentError(
        f"{what} {problem} (exit status 137); raise the memory limit, or use less memory (--set training.micro_batch_tokens=…). "
        "Finished work is kept: repeat the command to resume"
    )
