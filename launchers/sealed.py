"""The shell command of a job whose Python runs in a container, sealed as `train --in` seals one.

Of the node, the container sees the folders that are mounted, and the variables that tell a task which one it is. Home, `~/.local`,
PYTHONPATH and the settings of Hugging Face stay outside, and the root file system is read-only. The network is the node's.

A shell on the node starts the container, because the node may have no Python with this package.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from spac_repro.images import apptainer
from spac_repro.images.command import PASSED_VARIABLES
from spac_repro.images.runtime import SHARED_MEMORY
from spac_repro.launchers.profile import Cluster, Image

Mounts = Sequence[tuple[Path, bool]]  # paths of the node, each with whether it is writable

SCRATCH = "SPAC_REPRO_SCRATCH"  # environment variable in a container: the folder for caches
SCRATCH_PROBLEM = "SPAC_REPRO_SCRATCH_PROBLEM"  # environment variable: why there is no folder for caches
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# Variables of the node that come into the container, by how their names begin.
PASSED_PREFIXES = ("SLURM", "SUBMITIT_", "SPAC_REPRO_", "NCCL_", "TORCH_NCCL_", "GLOO_", "OMP_")
# What pyxis would bring in: it has no option against the node's variables.
UNSET_BY_PYXIS = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "LD_PRELOAD", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"),
)

# The container is a child, so that the folder on the node's disk is removed after it. Signals of Slurm are passed on to it; `wait`
# returns at each of them.
SCRIPT = """\
problem=
{checks}base={base}
[ -n "$problem" ] || work=$(mkdir -p "$base" && mktemp -d "$base/spac-repro-XXXXXXXX") || problem="cannot create a folder in $base"
if [ -n "$problem" ]; then {problem_variable}=$problem; export {problem_variable}; work=$(mktemp -d) || exit 3; fi
export {scratch}=/tmp
trap 'rm -rf "$work"' EXIT
for name in $(awk 'BEGIN {{ for (name in ENVIRON) if (name ~ /{outside}/) print name }}'); do unset "$name"; done
for name in $(awk 'BEGIN {{ for (name in ENVIRON) if (name ~ /{passed}/) print name }}'); do
  eval "export APPTAINERENV_$name=\\"\\$$name\\""
done
trap 'kill -s USR2 $child' USR2
trap 'kill -s TERM $child' TERM
{start} "$@" & child=$!
while wait $child; code=$?; kill -0 $child 2>/dev/null; do :; done
exit $code
"""
START = {"apptainer": 'apptainer exec --workdir "$work"', "podman": 'podman run --volume "$work:/tmp"'}


def python_command(cluster: Cluster, submitting_python: str, mounts: Mounts = ()) -> str:
    """The shell command that starts Python in the job.

    Args:
        cluster: the profile.
        submitting_python: the interpreter that submits, which is used unless the profile names another one.
        mounts: what the job reads and writes; the profile's own mounts come on top.
    """
    if (image := cluster.image) is None:
        return cluster.python or shlex.quote(submitting_python)
    if image.runtime == "pyxis":
        unset = [word for name in UNSET_BY_PYXIS for word in ("-u", name)]
        return shlex.join(["env", *unset, "PYTHONNOUSERSITE=1", image.python])
    options = _apptainer_options if image.runtime == "apptainer" else _podman_options
    words = [*options(image, mounts, gpus=bool(cluster.gpus_per_node)), *image.options, image.path, image.python]
    return shlex.join(["sh", "-c", _script(image.runtime, cluster.scratch), "sh", *words])


def srun_options(cluster: Cluster, mounts: Mounts = ()) -> list[str]:
    """Options of the srun that starts the job's Python on every node.

    From Slurm 22.05 on, srun does not inherit `--cpus-per-task` from sbatch: without it a task would get one core.
    """
    options = [f"--cpus-per-task={cluster.cpus_per_node}", *(["--kill-on-bad-exit=1"] if cluster.nodes > 1 else [])]
    if cluster.image and cluster.image.runtime == "pyxis":
        own = [Path(cluster.scratch)] if cluster.scratch else []
        paths = [
            *(f"{path}:{path}" + ("" if writable else ":ro") for path, writable in mounts),
            *(f"{path}:{path}" for path in own),
        ]
        binds = ",".join([*paths, *cluster.image.binds])
        options += [f"--container-image={cluster.image.path}", "--no-container-mount-home"]
        options += [*([f"--container-mounts={binds}"] if binds else []), *cluster.image.options]
    return options


def unset_variables(scratch: str) -> list[str]:
    """The variables of `scratch` that are not set in this process."""
    return [name for name in _names(scratch) if not os.environ.get(name)]


def _names(scratch: str) -> list[str]:
    return [braced or plain for braced, plain in VARIABLE.findall(scratch)]


def _apptainer_options(image: Image, mounts: Mounts, *, gpus: bool) -> list[str]:
    options = [*apptainer.SEAL, *(["--nv"] if gpus else []), "--env", "PYTHONNOUSERSITE=1"]
    for path, writable in mounts:
        options += ["--mount", apptainer.mount_option(path, writable)]
    return [*options, *(word for bind in image.binds for word in ("--bind", bind))]


def _podman_options(image: Image, mounts: Mounts, *, gpus: bool) -> list[str]:
    options = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host", "--workdir=/tmp"]
    options += [f"--user={os.geteuid()}:{os.getegid()}", *(["--userns=keep-id"] if os.geteuid() else [])]
    options += [f"--env={prefix}*" for prefix in PASSED_PREFIXES] + [f"--env={name}" for name in PASSED_VARIABLES]
    options += ["--env=HOME=/tmp", "--env=PYTHONNOUSERSITE=1"]
    options += [f"--shm-size={SHARED_MEMORY}", "--device=nvidia.com/gpu=all"] if gpus else []
    options += [f"--volume={path}:{path}" + ("" if writable else ":ro") for path, writable in mounts]
    return [*options, *(f"--volume={bind}" for bind in image.binds)]


def _script(runtime: str, scratch: str | None) -> str:
    """The script that starts the container. Of `scratch`, only variables are left to the shell."""
    checks = "".join(f'[ -n "${{{name}-}}" ] || problem="{name} is not set on the node"\n' for name in _names(scratch or ""))
    return SCRIPT.format(
        checks=checks,
        base=_shell_text(scratch) if scratch else '"${TMPDIR:-/tmp}"',
        problem_variable=SCRATCH_PROBLEM,
        scratch=SCRATCH,
        outside=f"^({apptainer.OPENS_THE_SEAL.pattern})$",
        passed=f"^({'|'.join(PASSED_PREFIXES)})[A-Za-z0-9_]*$|^({'|'.join(PASSED_VARIABLES)})$",
        start=START[runtime],
    )


def _shell_text(scratch: str) -> str:
    """A folder with variables as a word of the shell, in which nothing else has a meaning to the shell."""
    pieces: Iterable[str] = re.split(r"(\$\{\w+\}|\$\w+)", scratch)
    return "".join(f'"{piece}"' if VARIABLE.fullmatch(piece) else shlex.quote(piece) for piece in pieces if piece)
