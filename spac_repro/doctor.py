"""`doctor`: check that this machine, and the cluster of a profile, can run a sweep; suggest a fix for what fails."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from spac_repro.errors import UserError
from spac_repro.launchers.profile import Cluster
from spac_repro.recipe import Recipe
from spac_repro.runs import disk


@dataclass(frozen=True)
class Check:
    """The result of one check. A "note" is worth knowing but prevents nothing."""

    what: str
    verdict: Literal["ok", "note", "unfit"]
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def run_checks(
    cluster: Cluster | None, folder: Path, *, runs: int = 0, bytes_per_run: int = 0, recipe: Recipe | None = None
) -> list[Check]:
    """Check Python, packages, torch, GPUs and disk, and for a cluster also Slurm, the image and the cache.

    On a machine with a GPU, and where one is asked for, check also what kernels need to be compiled and loaded.

    Args:
        cluster: the profile of a cluster; None checks this machine only.
        folder: where the runs will be written.
        runs: the number of runs that must fit into the folder.
        bytes_per_run: the disk space of the largest of them.
        recipe: what will be trained; it may ask for GPUs.
    """
    checks = [*_python(), *_torch(cluster), *_gpu(cluster, recipe), *_disk(folder, runs, bytes_per_run)]
    if cluster is not None:
        if cluster.scheduler == "slurm":
            checks += _slurm(cluster, folder)
        checks += [*_image(cluster), *_cache(cluster)]
    return checks


def _python() -> Iterator[Check]:
    from spac_repro.runs import environment

    version = platform.python_version()
    supported = version.startswith("3.11.")
    yield Check(
        "Python", "ok" if supported else "unfit", version, "" if supported else "install Python 3.11 and repeat `make setup`"
    )
    departures = environment.lock_status()["departures"]
    if departures:
        examples = ", ".join(f"{name} {version or 'missing'}" for name, version in list(departures.items())[:3])
        yield Check(
            "packages",
            "note",
            f"{len(departures)} differ from the lock file: {examples}",
            "`make setup` installs the locked versions",
        )
    else:
        yield Check("packages", "ok", "the versions of the lock file")


def _torch(cluster: Cluster | None) -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check("torch", "unfit", str(error), "`make setup` installs it")
        return
    yield Check("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}")
    if torch.version.cuda is None and cluster is not None and cluster.gpus_per_node and cluster.image is None:
        yield Check("torch for GPUs", "unfit", "the CPU build", "`make setup TORCH=cuda`")


def _gpu(cluster: Cluster | None, recipe: Recipe | None) -> Iterator[Check]:
    """What training on a GPU needs. On a login node and under an image, what is missing is only a note: jobs run elsewhere."""
    from spac_repro.optim import gpu_host

    asked_for = bool(cluster and cluster.gpus_per_node) or bool(recipe and recipe.training.device)
    loaded = gpu_host.NVIDIA_DEVICE.exists()
    if not asked_for and not loaded and not gpu_host.visible_gpus():
        yield Check("GPU", "ok", "none")
        return
    elsewhere = cluster is not None and (cluster.scheduler == "slurm" or cluster.image is not None)
    missing: Literal["note", "unfit"] = "unfit" if asked_for and not elsewhere else "note"
    for need in gpu_host.needs(gpu_host.processes_here(recipe) if recipe else 1):
        remedy = f"{need.remedy}; run `doctor` in a job to check the nodes" if elsewhere else need.remedy
        found = _gpu_names() if need.what == "GPU" and need.met else need.found
        yield Check(need.what, "ok", found) if need.met else Check(need.what, missing, found, remedy)


def _gpu_names() -> str:
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)


def _disk(folder: Path, runs: int, bytes_per_run: int) -> Iterator[Check]:
    existing = disk.nearest_existing(folder)
    if not os.access(existing, os.W_OK):
        yield Check("disk", "unfit", f"{existing} is not writable", "choose another folder with --out")
        return
    free, need = shutil.disk_usage(existing).free, runs * bytes_per_run
    found = f"{free / 1e9:,.0f} GB free at {existing}"
    if need:
        found += f"; {'one run needs' if runs == 1 else f'{runs} runs need'} {need / 1e9:,.1f} GB at most"
    enough = free > need
    yield Check("disk", "ok" if enough else "unfit", found, "" if enough else "free space, or choose another disk with --out")
    yield _quota(existing, need)
    yield _lock(existing)


def _quota(folder: Path, need: int) -> Check:
    """Read the output of the command `quota`, if the machine has it; some file systems have their own command."""
    from spac_repro.launchers.slurm import run_command

    done = run_command("quota", "-w", "-p", "-f", str(folder))
    if done.returncode == 127:
        return Check("quota", "note", "the command `quota` is missing", "check your quota with your cluster's own command")
    try:
        used, soft, hard = (1024 * int(field.rstrip("*")) for field in done.stdout.splitlines()[-1].split()[1:4])
    except (IndexError, ValueError):
        return Check("quota", "note", "no limit is reported for this disk")
    limit = soft or hard
    left = limit - used
    if not limit or left > need:
        return Check("quota", "ok", f"{left / 1e9:,.0f} GB left" if limit else "no limit")
    return Check(
        "quota", "unfit", f"{max(left, 0) / 1e9:,.1f} GB left, {need / 1e9:,.1f} GB needed", "free space, or ask for a larger quota"
    )


def _lock(folder: Path) -> Check:
    """Check that file locks work on this disk: a lock keeps a second writer out of a run folder."""
    from filelock import FileLock, Timeout

    file = folder / f".doctor-{os.getpid()}.lock"
    try:
        with FileLock(file), FileLock(file, is_singleton=False).acquire(timeout=0):
            pass
    except Timeout:
        return Check("locks", "ok", "a lock excludes a second writer")
    except OSError as error:
        return Check("locks", "unfit", f"{error.strerror}", "mount the disk with file locks (Lustre: flock), or choose another")
    finally:
        file.unlink(missing_ok=True)
    return Check(
        "locks", "unfit", "two writers got the same lock", "mount the disk with file locks (Lustre: flock), or choose another"
    )


def _slurm(cluster: Cluster, folder: Path) -> Iterator[Check]:
    from spac_repro.launchers import slurm

    try:
        slurm.check_available()
    except UserError as error:
        yield Check("Slurm", "unfit", str(error), "run this on a login node, or use --cluster local")
        return
    yield Check("Slurm", "ok", slurm.run_command("sbatch", "--version").stdout.strip() + ", the controller answers")
    if slurm.has_accounting():
        yield Check("accounting", "ok", "on")
    else:
        consequence = (
            "off: `sweep status` cannot tell why a job was killed (memory, a node), nor see jobs that left the queue long ago"
        )
        yield Check("accounting", "note", consequence, "results and errors of the runs are reported all the same")
    if rejection := slurm.rejection(cluster):
        yield Check("job request", "unfit", f"Slurm rejects it: {rejection}", "correct the cluster profile")
        return
    yield Check("job request", "ok", "Slurm would accept it")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        untested = slurm.check_shared_folder(cluster, folder)
    except UserError as error:
        yield Check("shared folder", "unfit", str(error), "choose a folder on a shared disk with --out")
    else:
        if untested:
            yield Check("shared folder", "note", f"not tested: {untested}", "repeat this when a node is free")
        else:
            yield Check("shared folder", "ok", f"a node can write to {folder}")
    finally:
        for path in created:
            path.rmdir()


def _image(cluster: Cluster) -> Iterator[Check]:
    if (image := cluster.image) is None:
        return
    if image.path.startswith(("/", ".")) and not Path(image.path).exists():
        yield Check("image", "unfit", f"{image.path} does not exist", "build it, or correct `image` in the profile")
    elif image.runtime != "pyxis" and shutil.which(image.runtime) is None:
        yield Check(
            "image",
            "note",
            f"{image.path}; {image.runtime} is not installed on this machine",
            "the profile's `setup` must provide it on the nodes",
        )
    else:
        yield Check("image", "ok", image.path)


def _cache(cluster: Cluster) -> Iterator[Check]:
    if cluster.cache is None:
        if cluster.scheduler == "slurm" and cluster.offline:
            yield Check(
                "cache",
                "note",
                "none",
                "a recipe with a hub model needs one: run `spac-repro prefetch`, and set `cache` in the profile",
            )
        return
    from spac_repro import prefetch

    try:
        files = prefetch.verify(Path(cluster.cache))
    except UserError as error:
        yield Check("cache", "unfit", str(error), f"`spac-repro prefetch --recipe NAME --cache {cluster.cache}`")
    else:
        yield Check("cache", "ok", f"{files} files, all with the hashes in the manifest")
