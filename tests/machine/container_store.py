"""A store of Podman's and Buildah's own, apart from the machine's."""

from pathlib import Path

# crun fails where cgroups are of both kinds; runc wants limits that it need not raise.
CONTAINERS = """\
[containers]
default_ulimits=["nofile=4096:4096","nproc=4096:4096"]
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
events_logger="file"
"""
STORAGE = """\
[storage]
driver="overlay"
graphroot="{folder}/root"
runroot="{folder}/run"
"""


def store(folder: Path) -> dict[str, str]:
    """The variables that make a new folder the engines' store."""
    folder.mkdir()
    (folder / "containers.conf").write_text(CONTAINERS)
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BUILDAH_RUNTIME": "runc",
    }
