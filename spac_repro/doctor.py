"""`doctor`: whether this machine, and a cluster as its profile describes it, can do what a sweep asks of them."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from spac_repro.errors import UserError
from spac_repro.launchers.profile import Cluster


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. "note" is for what is worth knowing and does not stand in the way."""

    what: str
    verdict: Literal["ok", "note", "unfit"]
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(cluster: Cluster | None, folder: Path, *, cells: int = 0, bytes_a_cell: int = 0) -> list[Check]:
    """Look at everything; `cells` runs of `bytes_a_cell` at most are to fit into `folder`."""
    checks = [*_python(), *_torch(cluster), *_disk(folder, cells, bytes_a_cell)]
    if cluster is not None:
        if cluster.scheduler == "slurm":
            checks += _slurm(cluster, folder)
        checks += [*_image(cluster), *_cache(cluster)]
    return checks


def _python() -> Iterator[Check]:
    from spac_repro.runs import environment

    version = platform.python_version()
    right = version.startswith("3.11.")
    yield Check("Python", "ok" if right else "unfit", version, "" if right else "install Python 3.11 and repeat `make setup`")
    departures = environment.lock_status()["departures"]
    if departures:
        some = ", ".join(f"{name} {found or 'missing'}" for name, found in list(departures.items())[:3])
        yield Check(
            "packages", "note", f"{len(departures)} depart from the lock: {some}", "`make setup` installs what the lock names"
        )
    else:
        yield Check("packages", "ok", "as the lock names them")


def _torch(cluster: Cluster | None) -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check("torch", "unfit", str(error), "`make setup` installs it")
        return
    yield Check("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}")
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus) or "none"
    if gpus or cluster is None or not cluster.gpus_per_node:
        yield Check("GPU", "ok", found)
    elif cluster.scheduler == "slurm":
        yield Check("GPU", "note", "none here", "the nodes have them, by the profile; run `doctor` in a job to see them")
    else:
        yield Check(
            "GPU", "unfit", "none", "the profile asks for some: set gpus_per_node to 0, or repair the driver (`nvidia-smi`)"
        )
    if torch.version.cuda is None and cluster is not None and cluster.gpus_per_node and cluster.image is None:
        yield Check("torch for GPUs", "unfit", "the CPU build", "`make setup TORCH=cuda`")


def _disk(folder: Path, cells: int, bytes_a_cell: int) -> Iterator[Check]:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(place, os.W_OK):
        yield Check("disk", "unfit", f"{place} cannot be written", "choose another folder with --out")
        return
    free, need = shutil.disk_usage(place).free, cells * bytes_a_cell
    found = f"{free / 1e9:,.0f} GB free at {place}"
    if need:
        found += f"; {cells} cells need {need / 1e9:,.1f} GB at most"
    enough = free > need
    yield Check("disk", "ok" if enough else "unfit", found, "" if enough else "make room, or choose another disk with --out")
    yield _quota(place, need)
    yield _lock(place)


def _quota(place: Path, need: int) -> Check:
    """What `quota` says, where there is that command: file systems have their own ways of counting."""
    from spac_repro.launchers.slurm import ask

    done = ask("quota", "-w", "-p", "-f", str(place))
    if done.returncode == 127:
        return Check(
            "quota", "note", "the command `quota` is not here", "ask your cluster's own command what is left of your quota"
        )
    try:
        used, soft, hard = (1024 * int(field.rstrip("*")) for field in done.stdout.splitlines()[-1].split()[1:4])
    except (IndexError, ValueError):
        return Check("quota", "note", "no limit is reported for this disk")
    limit = soft or hard
    left = limit - used
    if not limit or left > need:
        return Check("quota", "ok", f"{left / 1e9:,.0f} GB left" if limit else "no limit")
    return Check("quota", "unfit", f"{max(left, 0) / 1e9:,.1f} GB left, {need / 1e9:,.1f} GB needed", "make room, or ask for more")


def _lock(place: Path) -> Check:
    """A run folder has one writer because of a lock: it must hold on this disk."""
    from filelock import FileLock, Timeout

    file = place / f".doctor-{os.getpid()}.lock"
    try:
        with FileLock(file), FileLock(file, is_singleton=False).acquire(timeout=0):
            pass
    except Timeout:
        return Check("locks", "ok", "a second writer is kept out")
    except OSError as error:
        return Check("locks", "unfit", f"{error.strerror}", "have the disk mounted with locks (Lustre: flock), or choose another")
    finally:
        file.unlink(missing_ok=True)
    return Check(
        "locks", "unfit", "two writers hold one lock", "have the disk mounted with locks (Lustre: flock), or choose another"
    )


def _slurm(cluster: Cluster, folder: Path) -> Iterator[Check]:
    from spac_repro.launchers import slurm

    try:
        slurm.require()
    except UserError as error:
        yield Check("Slurm", "unfit", str(error), "work on a login node, or use --cluster local")
        return
    yield Check("Slurm", "ok", slurm.ask("sbatch", "--version").stdout.strip() + ", its controller answers")
    if slurm.accounting():
        yield Check("accounting", "ok", "kept")
    else:
        lost = "not kept: why a job died without a word (memory, a node) cannot be said, nor what left the queue long ago"
        yield Check("accounting", "note", lost, "the cells' own results and errors are seen all the same")
    if refusal := slurm.refusal(cluster):
        yield Check("the request", "unfit", f"Slurm refuses: {refusal}", "correct the cluster profile")
        return
    yield Check("the request", "ok", "Slurm would take it")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        untried = slurm.check_shared(cluster, folder)
    except UserError as error:
        yield Check("shared folder", "unfit", str(error), "choose a folder on a shared disk with --out")
    else:
        if untried:
            yield Check("shared folder", "note", f"not tried: {untried}", "repeat it when a node is free")
        else:
            yield Check("shared folder", "ok", f"a node can write to {folder}")
    finally:
        for path in made:
            path.rmdir()


def _image(cluster: Cluster) -> Iterator[Check]:
    if (image := cluster.image) is None:
        return
    if image.path.startswith(("/", ".")) and not Path(image.path).exists():
        yield Check("image", "unfit", f"{image.path} is not there", "build it, or name the right file in the profile")
    elif image.runner != "pyxis" and shutil.which(image.runner) is None:
        yield Check("image", "note", f"{image.path}; no {image.runner} here", "the profile's `setup` must bring it on the nodes")
    else:
        yield Check("image", "ok", image.path)


def _cache(cluster: Cluster) -> Iterator[Check]:
    if cluster.cache is None:
        if cluster.scheduler == "slurm" and cluster.offline:
            yield Check(
                "cache", "note", "none", "recipes with a hub model need one: `spac-repro prefetch`, and `cache` in the profile"
            )
        return
    from spac_repro import prefetch

    try:
        files = prefetch.verify(Path(cluster.cache))
    except UserError as error:
        yield Check("cache", "unfit", str(error), f"`spac-repro prefetch --recipe NAME --cache {cluster.cache}`")
    else:
        yield Check("cache", "ok", f"{files} files, all with the hashes of the manifest")
