"""Who else can change a folder: what this program writes or executes in it must be its user's alone."""

import os
import stat
import tempfile
from pathlib import Path

from spac_repro.errors import UserError


def check_own_folder(folder: Path) -> None:
    """Check that a folder belongs to this user, and that nobody else can write to it.

    Group members may write where the group is the user's own, as on systems with umask 002. On file systems without owners or
    permissions (some network and Windows disks), nothing can be said, so the folder is accepted.

    Raises:
        UserError: the folder belongs to somebody else, or others can write to it.
    """
    status = folder.stat()
    foreign, writable = status.st_uid != os.geteuid(), _others_can_write(status)
    if not foreign and not writable:
        return
    owner_here, mode_here = _owner_and_mode_of_a_new_folder(folder)
    if foreign and status.st_uid != owner_here:
        raise UserError(
            f"{folder} belongs to another user, who could change what is read from it; choose another folder with --out"
        )
    if writable and not mode_here & 0o077:
        raise UserError(
            f"other users can write to {folder}, and change what is read from it; check its files, then `chmod go-w {folder}`"
        )


def check_no_links(folder: Path) -> None:
    """Check that no symbolic link is in a folder, because what is written below a link lands elsewhere.

    Raises:
        UserError: there is one; the message names it.
    """
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink():
                raise UserError(f"{path} is a symbolic link, so files would be written elsewhere; replace it by what it points to")


def _others_can_write(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(status.st_gid)


def _is_own_group(group: int) -> bool:
    """Whether a group is the user's private one: it has the user's name, and no other members."""
    import grp
    import pwd

    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}


def _owner_and_mode_of_a_new_folder(parent: Path) -> tuple[int, int]:
    """The owner and mode that a new private folder has there: root may become nobody, and mode 0700 may be ignored."""
    try:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=parent) as probe:
            status = Path(probe).stat()
    except OSError:
        return os.geteuid(), 0o700
    return status.st_uid, stat.S_IMODE(status.st_mode)
