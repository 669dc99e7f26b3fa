"""Where a sweep runs: a cluster profile."""

import shlex
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spac_repro.documents.packaged import PackagedDocument
from spac_repro.documents.settings import PositiveInt, Settings
from spac_repro.runs import files

NotNegative = Annotated[int, Field(ge=0)]


class Image(Settings):
    """A container that the job's Python runs in. Docker is no such runner: its daemon escapes Slurm's accounting and signals."""

    runner: Literal["apptainer", "podman", "pyxis"]
    path: str  # a .sif file; for Podman an image's name; for pyxis either
    binds: list[str] = Field(default_factory=list)  # HOST:CONTAINER[:ro]
    options: list[str] = Field(default_factory=list)  # more options of the runner
    python: str = "python"

    def identity(self) -> str:
        """What a run's manifest calls it: the hash of its file; the name alone where it lies in a store on the nodes."""
        file = Path(self.path)
        return (
            f"{file.suffix[1:]}:sha256:{_sha256(self.path)}"
            if file.is_file()
            else f"{self.runner}:{file.name if file.is_absolute() else self.path}"
        )


class Requeue(Settings):
    """What becomes of a job whose time is up, or that is preempted."""

    signal_seconds: PositiveInt = 120  # the signal to stop comes so long before the time limit: one checkpoint must fit in
    attempts_without_progress: PositiveInt = 3  # so many attempts in a row that leave nothing new end the cell with an error


class Cluster(PackagedDocument):
    """A cluster file: what sbatch is told, and what surrounds the job's Python."""

    kind = "cluster"
    folder = "launchers/clusters"

    summary: str
    scheduler: Literal["slurm", "local"]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodes: PositiveInt = 1
    gpus_per_node: NotNegative = 0
    processes_per_node: PositiveInt | None = None  # None: one a GPU, or one
    cpus_per_node: PositiveInt = 1
    memory_gb: PositiveInt | None = None  # of a node; None: the cluster's default
    minutes: PositiveInt
    parallelism: PositiveInt | None = None  # cells at a time; None: as many as Slurm starts
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)  # any other option of sbatch
    setup: list[str] = Field(default_factory=list)  # shell lines before the job's Python: modules, scratch folders
    environment: dict[str, str] = Field(default_factory=dict)
    python: str | None = None  # the interpreter without an image; None: the one that submits
    image: Image | None = None
    offline: bool = True  # the hub is switched off in the job
    cache: str | None = None  # folder written by `spac-repro prefetch`, on the shared disk
    scratch: str | None = None  # folder on the node's own disk for caches; may name variables, $TMPDIR
    requeue: Requeue = Requeue()

    @model_validator(mode="after")
    def _fits_together(self) -> "Cluster":
        if self.scheduler == "local" and self.nodes > 1:
            raise ValueError("`nodes` is 1 where `scheduler` is local")
        if self.scheduler == "local" and self.image:
            raise ValueError("`image` is for Slurm; on this machine, start spac-repro in the image")
        if self.image and self.python:
            raise ValueError("`python` is without an image; inside it, `image.python` names the interpreter")
        if 60 * self.minutes <= self.requeue.signal_seconds:
            raise ValueError(
                f"`requeue.signal_seconds` ({self.requeue.signal_seconds}) is no less than `minutes` ({self.minutes}): "
                "nothing is left to train in"
            )
        return self

    @property
    def processes(self) -> int:
        """Training processes on all nodes together."""
        return self.nodes * (self.processes_per_node or self.gpus_per_node or 1)

    def interpreter(self, this: str) -> str:
        """The shell words that start Python in the job; `this` is the interpreter that submits."""
        if self.image is None:
            return self.python or shlex.quote(this)
        image, words = self.image, []
        if image.runner == "apptainer":
            words = ["apptainer", "exec", *(["--nv"] if self.gpus_per_node else []), *_each("--bind", image.binds), *image.options]
        elif image.runner == "podman":
            gpus = ["--device", "nvidia.com/gpu=all"] if self.gpus_per_node else []
            # The job's variables tell Python which task it is; the host's network is where the other nodes are.
            words = [
                "podman",
                "run",
                "--rm",
                "--env-host",
                "--network=host",
                *gpus,
                *_each("--volume", image.binds),
                *image.options,
            ]
        return shlex.join([*words, *([image.path] if words else []), image.python])

    def srun(self) -> list[str]:
        """Options of the srun that starts the job's Python on every node."""
        options = ["--kill-on-bad-exit=1"] if self.nodes > 1 else []
        if self.image and self.image.runner == "pyxis":
            mounts = [f"--container-mounts={','.join(self.image.binds)}"] if self.image.binds else []
            options += [f"--container-image={self.image.path}", *mounts, *self.image.options]
        return options


@cache
def _sha256(file: str) -> str:
    return files.sha256_file(Path(file))


def _each(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
