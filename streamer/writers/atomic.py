"""Files that appear complete or not at all: temporary name, fsync, rename, fsync of the directory.

Source: Pillai et al. 2014, All File Systems Are Not Created Equal (OSDI), on which of these steps are needed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from streamer.errors import OutputError
from streamer.runtime.fault_point import fault_point

if TYPE_CHECKING:
    from collections.abc import Callable

_TEMPORARY = re.compile(r"\..*\.tmp-(\d+)-[0-9a-f]{16}", re.DOTALL)
_MAX_NAME_BYTES = 255
_FILE_MODE, _DIRECTORY_MODE = 0o640, 0o750

_HINTS = {
    errno.ENOSPC: "free some space on the output volume; the daemon then resumes by itself",
    errno.EDQUOT: "the quota is used up: raise it or free some space; the daemon then resumes by itself",
    errno.EFBIG: "the file system or a limit of the process does not allow files of this size",
    errno.EROFS: "remount the output volume read-write",
    errno.ENOTDIR: "a file is in the way: move it, or set outputs.root to another directory",
    errno.EEXIST: "a file is in the way: move it, or set outputs.root to another directory",
    errno.EISDIR: "a directory is in the way: move it, or set outputs.root to another directory",
    errno.EIO: "check the disk and its connection",
    errno.EACCES: "give the daemon's user permission to write there",
    errno.EPERM: "give the daemon's user permission to write there",
    errno.ENAMETOOLONG: "the name of the movie is too long for the output volume",
}
_HINT = "is the output volume mounted, and can the daemon's user write there?"
# File systems that cannot flush a directory say so; they order the rename themselves.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


class Written(NamedTuple):
    """What is on disk now."""

    bytes: int
    sha256: str


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object]) -> Written:
    """Write a file so that it is complete under its name or absent, even when the power fails.

    Missing directories are created. An existing file of that name is replaced.

    Parameters
    ----------
    data : the content, or a function that writes it to the binary file object it is given.

    Raises
    ------
    OutputError
        The disk is full, read-only, out of quota or failing; no part of the file is left behind.
    """
    temporary = path.with_name(_temporary_name(path.name))
    try:
        _make_directory(path.parent)
        try:
            written = _write(temporary, data)
            fault_point("written", str(path))
            os.replace(temporary, path)  # noqa: PTH105 - Path.replace is the same call with more in between
            _sync_directory(path.parent)
            fault_point("renamed", str(path))
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            found=errno.errorcode.get(error.errno or 0, "an unknown error"),
            hint=_HINTS.get(error.errno or 0, _HINT),
        ) from error
    return written


def sweep_temporaries(root: Path, *, recursive: bool = True) -> list[Path]:
    """Remove files that a killed process has left half-written in ``root``, and below it if ``recursive``.

    Called at the start, before anything is written. Temporary files of processes that are still alive stay.

    Returns
    -------
    The files removed, sorted.
    """
    removed = []
    for directory, below, names in os.walk(root, followlinks=False):
        if not recursive:
            below.clear()
        for name in names:
            match = _TEMPORARY.fullmatch(name)
            # Nothing has been written yet, so our own process id was that of an earlier process.
            if match and (int(match[1]) == os.getpid() or not _is_alive(int(match[1]))):
                path = Path(directory) / name
                with suppress(OSError):
                    path.unlink()
                    removed.append(path)
    return sorted(removed)


def _temporary_name(name: str) -> str:
    suffix = f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
    if len(os.fsencode(name)) + len(suffix) + 1 > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}{suffix}"


def _write(temporary: Path, data: bytes | Callable[[BinaryIO], object]) -> Written:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, _FILE_MODE), "w+b") as file:
        if isinstance(data, bytes):
            file.write(data)
        else:
            data(file)
        file.flush()
        os.fsync(file.fileno())
        # Hashed from the file: a writer may have gone back to fill in its header.
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        return Written(os.fstat(file.fileno()).st_size, digest.hexdigest())


def _make_directory(directory: Path) -> None:
    """Create a directory and those above it; each new name is flushed as well."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for new in reversed(missing):
        with suppress(FileExistsError):
            new.mkdir(mode=_DIRECTORY_MODE)
        if not stat.S_ISDIR(new.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(new))
        _sync_directory(new.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        # killed, and not yet reaped by its parent: it writes no more
        return Path(f"/proc/{process}/stat").read_text("latin-1").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True
