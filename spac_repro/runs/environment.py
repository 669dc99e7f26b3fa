"""The environment of a run: everything outside the recipe that can change a bit of the result."""

import errno
import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import spac_repro
from spac_repro.runs import numerics

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "lm_eval", "datasets", "tokenizers", "safetensors", "numpy")
OPTIONAL_LIBRARIES = ("liger-kernel",)  # listed only where installed: they may do the computation
CHECKOUT = Path(__file__).resolve().parents[2]  # a git checkout, or the folder that the package is installed in


def describe() -> dict[str, Any]:
    """Describe the environment of this process. It has no clock times, host names or absolute paths."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "package": spac_repro.__version__,
        "source": source_revision(),
        "image": os.environ.get("SPAC_REPRO_IMAGE"),  # set by `--in`: a container cannot know its own image
        "lock": lock_status(),
        "python": platform.python_version(),
        "libraries": libraries(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": numerics.cpu_model(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        **numerics.describe(),
    }


def libraries() -> dict[str, str | None]:
    """Return the installed version of each library that takes part in the computation; optional ones only where installed."""
    optional = {name: number for name in OPTIONAL_LIBRARIES if (number := installed_version(name))}
    return {name: installed_version(name) for name in LIBRARIES} | optional


def installed_version(name: str) -> str | None:
    """Return the installed version of a Python distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lock_status() -> dict[str, Any]:
    """Return the hash of requirements/base.lock, and the installed versions that differ from it.

    The published numbers were made with the versions of this lock.
    """
    text = (resources.files("spac_repro") / "requirements" / "base.lock").read_text(encoding="utf-8")
    # Pins with a platform marker are skipped: on another platform they do not apply.
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(?= \\)", text, flags=re.MULTILINE)
    installed = {name: installed_version(name) for name, _ in pins}
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "departures": {name: installed[name] for name, pin in pins if installed[name] != pin},
    }


def source_revision() -> dict[str, Any] | None:
    """Return the package's git commit, and whether its files differ from the commit.

    Outside a git checkout, the image states the commit. None where neither exists.
    """
    if not (CHECKOUT / ".git").exists():
        revision = os.environ.get("SPAC_REPRO_REVISION", "unknown")  # set when the image is built
        if revision == "unknown":
            return None
        return {"commit": revision.removesuffix("+changed"), "changed": revision.endswith("+changed")}
    try:
        changed = _git("status", "--porcelain", "--", "spac_repro", "requirements")
        return {"commit": _git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (FileNotFoundError, PermissionError, subprocess.CalledProcessError):
        return None  # git is not installed, or refuses; an error that passes (too many open files) must not count as no commit


def has_commit(commit: str) -> bool | None:
    """Return whether the package's git checkout has this commit; None where there is no checkout, or git does not run."""
    if not (CHECKOUT / ".git").exists():
        return None
    if not re.fullmatch("[0-9a-f]{7,40}", commit):
        return False
    try:
        return _git("cat-file", "-t", commit) == "commit"
    except OSError:
        return None
    except subprocess.CalledProcessError:
        return False


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if os.strerror(errno.EMFILE) in done.stderr:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "git")
    done.check_returncode()
    return done.stdout.strip()


def module_sha256(path: str) -> str | None:
    """Return the SHA-256 of the source file of the module in "module:name"; None where there is no such file."""
    spec = find_spec(path.partition(":")[0])
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
