"""What a run was carried out in: everything outside the recipe that can move a bit of its result."""

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
from spac_repro.runs import compute

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "lm_eval", "datasets", "tokenizers", "safetensors", "numpy")
CHECKOUT = Path(__file__).resolve().parents[2]  # a checkout of git, or where the package is installed
EXTRAS = ("vllm", "liger-kernel")  # named where they are installed only: they may be what computes


def describe() -> dict[str, Any]:
    """The environment of this process; no clock times, host names or absolute paths."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "package": spac_repro.__version__,
        "source": source_revision(),
        "image": os.environ.get("SPAC_REPRO_IMAGE"),  # set by `--in`: a container cannot know what it is made from
        "lock": lock_status(),
        "python": platform.python_version(),
        "libraries": libraries(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": compute.cpu_model(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        **compute.describe(),
    }


def libraries() -> dict[str, str | None]:
    """The installed versions of the libraries that compute; of an optional one only where it is installed."""
    optional = {name: its for name in EXTRAS if (its := installed_version(name))}
    return {name: installed_version(name) for name in LIBRARIES} | optional


def installed_version(name: str) -> str | None:
    """The installed version of a distribution, if it is installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lock_status() -> dict[str, Any]:
    """The hash of the lock that the published numbers were made with, and where what is installed departs from it."""
    text = (resources.files("spac_repro") / "requirements" / "base.lock").read_text()
    # A pin with a marker is for one platform among several: absent or other here, it says nothing.
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(?= \\)", text, flags=re.MULTILINE)
    installed = {name: installed_version(name) for name, _ in pins}
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "departures": {name: installed[name] for name, pin in pins if installed[name] != pin},
    }


def source_revision() -> dict[str, Any] | None:
    """The git commit that the package is of, and whether its files differ from it; None where neither checkout nor image says."""
    if not (CHECKOUT / ".git").exists():
        built = os.environ.get("SPAC_REPRO_REVISION", "unknown")  # set in the image, when it is built
        return None if built == "unknown" else {"commit": built.removesuffix("+changed"), "changed": built.endswith("+changed")}
    try:
        changed = _git("status", "--porcelain", "--", "spac_repro", "requirements")
        return {"commit": _git("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return None


def has_commit(commit: str) -> bool | None:
    """Whether the checkout that the package lies in has a commit; None where it lies in none, or where git cannot tell."""
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
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def module_sha256(place: str) -> str | None:
    """SHA-256 of the source of the module in "module:name"; None where it has no file."""
    spec = find_spec(place.partition(":")[0])
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
