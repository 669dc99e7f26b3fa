"""The file format of an archive: a ZIP file with equal bytes for equal content, which any program opens.

Members are stored and not compressed, in the order of their names, with one date and one mode. Compression would make the bytes
depend on the version of zlib. And a file that is stored cannot unpack to more than it holds, which an archive of others might.
`SHA256SUMS` is the last member, in the format of `sha256sum`, and holds the hash of every other one.

An archive of others is read with suspicion: `members` refuses whatever `write` would not have written.
"""

import errno
import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from spac_repro.documents.errors import one_line, user_error
from spac_repro.errors import UserError

SUMS = "SHA256SUMS"
MAX_MEMBERS = 100_000
MAX_SUMS_BYTES = 2**25
CHUNK = 2**20
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that the format has
_MODE = stat.S_IFREG | 0o644
_NAME = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9._+-]{1,100}(/(?!\.{1,2}(/|$))[A-Za-z0-9._+-]{1,100}){0,9}")

Content = bytes | Path
Report = Callable[[int, int], None]  # bytes that are done, bytes in all


def write(file: BinaryIO, contents: Mapping[str, Content], report: Report = lambda done, total: None) -> None:
    """Write an archive.

    Args:
        file: where to; it can be sought in.
        contents: the members by name: bytes, or the file that holds them.
        report: called with the bytes that are written, and all bytes.

    Raises:
        UserError: a name is not one of an archive, or a file changed while it was read.
    """
    check_names(list(contents), "the archive")
    sizes = {name: content.stat().st_size if isinstance(content, Path) else len(content) for name, content in contents.items()}
    sums, done, total = [], 0, sum(sizes.values())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=True) as archive:
        for name in sorted(contents):
            content, digest = contents[name], hashlib.sha256()
            with archive.open(_info(name, sizes[name]), "w") as member:
                for chunk in _chunks(content):
                    digest.update(chunk)
                    member.write(chunk)
                    done += len(chunk)
                    report(done, total)
            if archive.getinfo(name).file_size != sizes[name]:
                raise UserError(f"{content!s}: changed while it was read; wait until nothing writes to the run, and repeat")
            sums.append(f"{digest.hexdigest()}  {name}\n")
        archive.writestr(_info(SUMS, 0), "".join(sums).encode())


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system, info.external_attr, info.file_size = 3, _MODE << 16, size  # 3: Unix
    return info


def _chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def check_names(names: list[str], where: str) -> None:
    """Check that every name is a plain relative path of ASCII letters, that none is twice, and that no file is also a folder.

    Raises:
        UserError: a name could lead out of the folder that an archive is unpacked to, or could not be unpacked.
    """
    seen = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise user_error(where, f"the name {one_line(repr(name), 80)} is not one of an archive")
        if name.casefold() in seen:
            raise user_error(where, f"{one_line(name, 80)} occurs twice")
        seen.add(name.casefold())
    for name in seen:
        parts = name.split("/")
        if any("/".join(parts[:end]) in seen for end in range(1, len(parts))):
            raise user_error(where, f"{one_line(name, 80)} lies below a file")


def looks_like_one(path: Path) -> bool:
    """Whether a file begins as a ZIP file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def unpack(path: Path, folder: Path, wanted: Callable[[str], bool], report: Report = lambda done, total: None) -> dict[str, str]:
    """Check every member of an archive against `SHA256SUMS`, and unpack those that are wanted.

    Args:
        path: the archive.
        folder: where to; members get no permission to be executed, and links are never followed.
        wanted: whether the member of this name is unpacked.
        report: called with the bytes that are read, and all bytes.

    Returns:
        The SHA-256 of each member.

    Raises:
        UserError: the file is no archive of this package, or a member was altered, removed or added.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = _checked_members(path, archive)
            found, done, total = {}, 0, sum(info.file_size for info in infos)
            for info in infos:
                if info.filename == SUMS:
                    continue
                target = folder / info.filename if wanted(info.filename) else None
                with archive.open(info) as member:
                    found[info.filename] = _copy(member, target, partial(_report_from, report, done, total))
                done += info.file_size
            _check_sums(path, found, archive.read(SUMS))
            return found
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a damaged offset may lie before the file
            raise
        raise user_error(str(path), f"not a whole archive ({one_line(error, 100)})", remedy="fetch the file again") from None


def _report_from(report: Report, before: int, total: int, done: int) -> None:
    report(before + done, total)


def _checked_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members, each a plain file that is stored as it is, together not larger than the archive itself."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise user_error(str(path), f"more than {MAX_MEMBERS:,} members")
    check_names([info.filename for info in infos], str(path))
    for info in infos:
        plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1 and info.file_size == info.compress_size
        if not plain or info.external_attr >> 16 != _MODE or info.is_dir():
            raise user_error(str(path), f"{one_line(info.filename, 80)} is not a plain, uncompressed file", remedy=_NOT_OURS)
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise user_error(str(path), "its members overlap", remedy=_NOT_OURS)
    if min((info.header_offset for info in infos), default=0) or not _ends_with_its_directory(path):
        raise user_error(str(path), "bytes were added before or behind what was archived", remedy=_NOT_OURS)
    sums = next((info for info in infos if info.filename == SUMS), None)
    if sums is None or sums.file_size > MAX_SUMS_BYTES:
        raise user_error(str(path), f"no {SUMS}" if sums is None else f"{SUMS} is too large", remedy=_NOT_OURS)
    return infos


def _ends_with_its_directory(path: Path) -> bool:
    """Whether nothing follows the ZIP file's last record, 22 bytes without a comment. Readers of ZIP files pass over what does."""
    with path.open("rb") as file:
        file.seek(-22, os.SEEK_END)
        last = file.read()
    return last.startswith(b"PK\x05\x06") and last.endswith(b"\0\0")


_NOT_OURS = "name a file that `spac-repro archive` wrote"


def _copy(member: IO[bytes], target: Path | None, report: Callable[[int], None]) -> str:
    """Read a member to its end, write it where there is a target, and return its SHA-256."""
    digest, done = hashlib.sha256(), 0
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(target.open("xb")) if target is not None else None
        while chunk := member.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(done)
            if file is not None:
                file.write(chunk)
    return digest.hexdigest()


def _check_sums(path: Path, found: Mapping[str, str], sums: bytes) -> None:
    """Compare the hashes of members with those that the archive states, byte by byte."""
    lines = [f"{found[name]}  {name}" for name in sorted(found)]
    stated = sums.decode("ascii", errors="replace").split("\n")
    if stated == [*lines, ""]:
        return
    known = {line[66:]: line[:64] for line in stated}
    for name, sha256 in found.items():
        if known.get(name) != sha256:
            problem = "is not what was archived" if name in known else f"is not in {SUMS}"
            raise user_error(str(path), f"{name} {problem}", remedy="fetch the file again from where it was deposited")
    missing = next((name for name in known if name and name not in found), None)
    problem = f"{one_line(missing, 80)} was removed" if missing else f"{SUMS} was altered"
    raise user_error(str(path), problem, remedy="fetch the file again from where it was deposited")
