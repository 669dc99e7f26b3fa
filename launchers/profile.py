"""Cluster profiles: where the runs of a sweep are executed, and with which resources."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from spac_repro.documents.base_model import PositiveFloat, PositiveInt, Settings
from spac_repro.documents.packaged import PackagedDocument
from spac_repro.runs import files

NotNegative = Annotated[int, Field(ge=0)]


def _printable(text: str) -> str:
    if not text.isprintable():  # a new line in the batch script would be a command of its own
        raise ValueError("contains a control character; write it without")
    return text


# Text that becomes a part of the batch script, where sbatch or the shell reads it.
OneLine = Annotated[str, AfterValidator(_printable)]
SbatchOption = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

RENAMED = {"parallelism": "max_parallel_runs"}  # keys of version 0.1; a file with one is refused, an old sweep.json is read
RENAMED_IN_IMAGE = {"runner": "runtime"}


class Image(Settings):
    """A container image that the job's Python runs in.

    Docker is not offered: its daemon runs containers outside Slurm's accounting and signals.

    Attributes:
        runtime: the container runtime.
        path: a .sif file; for Podman the name of an image; for pyxis either.
        binds: mounts, as HOST:CONTAINER[:ro].
        options: more options of the runtime.
        python: the interpreter in the image.
    """

    runtime: Literal["apptainer", "podman", "pyxis"]
    path: OneLine
    binds: list[OneLine] = Field(default_factory=list)
    options: list[OneLine] = Field(default_factory=list)
    python: OneLine = "python"

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_keys(cls, tree: Any) -> Any:
        return _without_old_keys(tree, RENAMED_IN_IMAGE)

    def identity(self) -> str:
        """What a run's manifest calls the image: the hash of its file; only the name if the image is in a store on the nodes."""
        file = Path(self.path)
        return (
            f"{file.suffix[1:]}:sha256:{_sha256(self.path)}"
            if file.is_file()
            else f"{self.runtime}:{file.name if file.is_absolute() else self.path}"
        )


class Requeue(Settings):
    """When a job is put back into the queue: its time limit is near, or it is preempted.

    Attributes:
        signal_seconds: how long before the time limit the job is told to stop, in seconds: long enough to write a checkpoint.
        attempts_without_progress: after this many attempts in a row without a new checkpoint or result, the run fails.
    """

    signal_seconds: PositiveInt = 120
    attempts_without_progress: PositiveInt = 3


class Timeouts(Settings):
    """After how long a process gives up waiting for the others, in minutes: the network or another process hangs.

    Attributes:
        nccl: for GPUs, which exchange gradients and weights in every step.
        gloo: for the processes themselves, which wait while the main process evaluates, hashes and saves.
    """

    nccl: PositiveFloat = 30
    gloo: PositiveFloat = 120


class Cluster(PackagedDocument):
    """A cluster profile: the resources of a job, and the environment of the job's Python.

    Attributes:
        summary: one line about the cluster.
        scheduler: slurm, or local: this machine, without a scheduler.
        partition: as sbatch takes it, like account, qos, constraint and exclude. None: the cluster's default.
        account: see partition.
        qos: see partition.
        constraint: see partition.
        exclude: see partition.
        nodes: nodes per run.
        gpus_per_node: GPUs per node.
        processes_per_node: training processes per node; None: one per GPU, or one if there is none.
        cpus_per_node: CPU cores per node.
        memory_gb: memory of a node in GB; None: the cluster's default.
        minutes: time limit of a job.
        max_parallel_runs: runs that are executed at the same time; None: as many as Slurm starts.
        sbatch: any other options of sbatch.
        setup: shell lines before the job's Python, e.g. `module load cuda`. The job executes them as they are.
        environment: environment variables of the job.
        python: the interpreter, without an image; None: the one that submits.
        image: the container image that the job's Python runs in.
        offline: switch the hub off in the job.
        cache: folder that `spac-repro prefetch` filled, on the shared disk.
        scratch: folder for caches on the node's own disk; may contain variables, e.g. $TMPDIR. A job on a node where one is not
            set fails. In an image, a new folder in it is the container's /tmp.
        timeouts: when a process gives up waiting for the others.
        requeue: when a job is put back into the queue.
    """

    kind = "cluster"
    folder = "launchers/clusters"

    summary: str
    scheduler: Literal["slurm", "local"]
    partition: OneLine | None = None
    account: OneLine | None = None
    qos: OneLine | None = None
    constraint: OneLine | None = None
    exclude: OneLine | None = None
    nodes: PositiveInt = 1
    gpus_per_node: NotNegative = 0
    processes_per_node: PositiveInt | None = None
    cpus_per_node: PositiveInt = 1
    memory_gb: PositiveInt | None = None
    minutes: PositiveInt
    max_parallel_runs: PositiveInt | None = None
    sbatch: dict[SbatchOption, OneLine | int | bool] = Field(default_factory=dict)
    setup: list[str] = Field(default_factory=list)
    environment: dict[VariableName, str] = Field(default_factory=dict)
    python: OneLine | None = None
    image: Image | None = None
    offline: bool = True
    cache: OneLine | None = None
    scratch: OneLine | None = None
    timeouts: Timeouts = Timeouts()
    requeue: Requeue = Requeue()

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_keys(cls, tree: Any) -> Any:
        return _without_old_keys(tree, RENAMED)

    @model_validator(mode="after")
    def _check_consistency(self) -> "Cluster":
        if self.scheduler == "local" and self.nodes > 1:
            raise ValueError("`nodes` must be 1 if `scheduler` is local")
        if self.scheduler == "local" and self.image:
            raise ValueError("`image` needs Slurm; on this machine, start spac-repro in the image")
        if self.image and self.python:
            raise ValueError("`python` cannot be combined with `image`; set `image.python` instead")
        if self.nodes > 1 and "NCCL_SOCKET_IFNAME" in self.environment and "GLOO_SOCKET_IFNAME" not in self.environment:
            raise ValueError(
                "`environment` has NCCL_SOCKET_IFNAME and no GLOO_SOCKET_IFNAME; name the network interface for both: "
                "the processes connect over gloo, too, which takes one exact name"
            )
        if self.image and self.image.runtime == "pyxis" and "$" in (self.scratch or ""):
            raise ValueError("`scratch` cannot have a variable with pyxis, which mounts it; name a folder that all nodes have")
        if 60 * self.minutes <= self.requeue.signal_seconds:
            raise ValueError(
                f"`requeue.signal_seconds` ({self.requeue.signal_seconds}) must be less than `minutes` ({self.minutes}): "
                "otherwise no time is left for training"
            )
        return self

    @property
    def processes(self) -> int:
        """Number of training processes on all nodes together."""
        return self.nodes * (self.processes_per_node or self.gpus_per_node or 1)


@cache
def _sha256(file: str) -> str:
    return files.sha256_file(Path(file))


def upgrade(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a profile that version 0.1 wrote into sweep.json."""
    tree = {RENAMED.get(key, key): value for key, value in profile.items()}
    if isinstance(image := tree.get("image"), Mapping):
        tree["image"] = {RENAMED_IN_IMAGE.get(key, key): value for key, value in image.items()}
    return tree


def _without_old_keys(tree: Any, renamed: Mapping[str, str]) -> Any:
    """Return the values of a file unchanged, or raise ValueError if one of the keys was renamed."""
    if isinstance(tree, Mapping):
        for old, new in renamed.items():
            if old in tree:
                raise ValueError(f"`{old}` was renamed to `{new}` in version 0.2")
    return tree
