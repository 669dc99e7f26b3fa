"""What training on a GPU needs of the machine: the GPU, its driver, a C compiler, Python's headers, and caches for compiled code.

FlexAttention computes the packed rows on CUDA (model/packing.py). Triton compiles its kernels during training. Before the first
kernel it builds a module of its own in C, with Python's headers (`triton.runtime.build`), and loads it from its cache.
"""

import os
import re
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.recipe import Recipe
from spac_repro.runs import numerics

NVIDIA_DEVICE = Path("/dev/nvidiactl")  # exists where the NVIDIA driver is loaded
# The first driver of a CUDA release. NVIDIA states 580 for CUDA 13 (docs.nvidia.com/deploy/cuda-compatibility/, table 1 of "Minor
# Version Compatibility"). 580.65.06 is what others cite from the release notes of CUDA 13.0, which were not at hand.
FIRST_DRIVER = {"13.0": "580.65.06"}
CACHE_VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "torchinductor", "TRITON_CACHE_DIR": "triton"}  # and their folders' names


@dataclass(frozen=True)
class Need:
    """One thing that training on a GPU needs, and whether it is here."""

    what: str
    met: bool
    found: str
    remedy: str = ""


def check(recipe: Recipe) -> None:
    """Check that this machine can run a recipe: the GPU that it asks for, and on a GPU all that its kernels need.

    Raises:
        UnfitEnvironmentError: something is missing.
    """
    if recipe.training.device is None and not visible_gpus():
        return
    for need in needs(processes_here(recipe), compiles=recipe.policy.attn_implementation == "sdpa"):
        if not need.met:
            demand = "training.device is cuda: " if recipe.training.device else ""
            raise UnfitEnvironmentError(f"{demand}{need.found}; {need.remedy}")


def needs(processes: int = 1, *, compiles: bool = True) -> Iterator[Need]:
    """Look for everything that training on a GPU needs.

    Args:
        processes: training processes on this machine.
        compiles: whether Triton will compile kernels.
    """
    yield _gpu(processes)
    if compiles:
        yield _compiler()
        yield _headers()
        for variable in CACHE_VARIABLES:
            yield _cache(variable)


def processes_here(recipe: Recipe) -> int:
    """The number of the recipe's processes that run on this machine, by the launcher's variables."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or recipe.training.processes // int(os.environ.get("PET_NNODES", 1)) or 1)


def visible_gpus() -> int:
    """The number of GPUs that torch can use. torch's warning about an old driver is left to `needs`."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def set_cache_folders() -> None:
    """Keep compiled code below the user's home: others can guess the name of torch's folder in /tmp, whose files are executed."""
    for variable, folder in CACHE_VARIABLES.items():
        os.environ.setdefault(variable, str(_own_caches() / folder))


def _own_caches() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "spac-repro"


def _gpu(processes: int) -> Need:
    """Whether each process has a GPU. Nothing here starts CUDA, which would take half a gigabyte of the first GPU."""
    count = visible_gpus()
    if count < processes and count:
        remedy = f"--set training.processes={count}, or use a machine with more GPUs (CUDA_VISIBLE_DEVICES may hide some)"
        return Need(
            "GPU", False, f"{processes} processes on this machine share {count} GPUs, and each needs one of its own", remedy
        )
    if count:
        return Need("GPU", True, f"{count} visible")
    import torch

    return Need("GPU", False, *_why_no_gpu(torch.version.cuda))


def _why_no_gpu(cuda: str | None) -> tuple[str, str]:
    """Why torch sees no GPU, and what to do.

    Args:
        cuda: the CUDA release that torch was built with; None: the CPU build.
    """
    driver, first = numerics.driver(), FIRST_DRIVER.get(cuda or "", "")
    if cuda is None:
        return "no GPU is visible, because torch is the CPU build", "install the CUDA build with `make setup TORCH=cuda`"
    if driver is None and not NVIDIA_DEVICE.exists():
        since = f" ({first} or newer)" if first else ""
        return (
            "no GPU is visible, because no NVIDIA driver is loaded",
            f"use a machine with a GPU, install its driver{since}, or pass the GPUs on to the container",
        )
    if driver is not None and first and _numbers(driver) < _numbers(first):
        return f"no GPU is visible: driver {driver} is older than {first}, which CUDA {cuda} needs", "install a newer driver"
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"no GPU is visible: CUDA_VISIBLE_DEVICES is {hidden!r}", "unset it, or name GPUs of this machine"
    return "no GPU is visible, although a driver is loaded", "see what `nvidia-smi` reports"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _compiler() -> Need:
    """The C compiler that Triton takes: that of CC, else gcc, else clang."""
    named = os.environ.get("CC")
    found = shutil.which(named) if named else shutil.which("gcc") or shutil.which("clang")
    if found:
        return Need("C compiler", True, found)
    problem = f"CC is {named!r}, which is no command" if named else "there is no C compiler, which Triton needs for its kernels"
    return Need("C compiler", False, problem, "install gcc (Debian: `apt-get install gcc`), or use the cuda image")


def _headers() -> Need:
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # as Triton does on Debian
    file = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    if file.is_file():
        return Need("Python.h", True, str(file))
    problem = f"there is no {file}, which Triton needs for its kernels"
    return Need(
        "Python.h", False, problem, "install Python's headers (Debian: `apt-get install python3.11-dev`), or use the cuda image"
    )


def _cache(variable: str) -> Need:
    """Whether files in a cache can be written and executed; many systems mount temporary and home folders without execution."""
    folder = Path(os.environ.get(variable) or _own_caches() / CACHE_VARIABLES[variable]).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    what = f"cache {CACHE_VARIABLES[variable]}"
    remedy = f"set {variable} to a folder on a disk that is mounted without `noexec`"
    if not os.access(existing, os.W_OK):
        return Need(what, False, f"compiled kernels cannot be kept in {folder}: {existing} is not writable", remedy)
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        return Need(what, False, f"compiled kernels cannot be loaded from {folder}: its disk is mounted noexec", remedy)
    return Need(what, True, str(folder))
