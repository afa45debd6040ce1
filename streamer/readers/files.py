"""How files that others write are opened: regular files only, never blocking, never through a link.

Every error of the operating system becomes a ``StreamerError`` here, so that nothing else has to know them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamer.errors import MovieNotReady, MovieUnreachable, MovieUnsupported, MovieVanished
from streamer.records import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FINGERPRINT_BYTES = 1 << 20

# What opening says about things that will never be a movie, however long one waits.
_NEVER_A_MOVIE = {
    errno.ELOOP: "is a symbolic link",
    errno.ENXIO: "is a socket or a device",
    errno.ENODEV: "is a device",
    errno.ENAMETOOLONG: "has too long a name",
}


def identity(status: os.stat_result) -> FileIdentity:
    """Take from a ``stat`` what tells one state of a file from another."""
    return FileIdentity(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def identity_of(path: Path) -> FileIdentity:
    """Tell the identity of a regular file.

    The file is opened rather than only looked up: network file systems refresh what they know of it then.

    Raises
    ------
    MovieNotReady
        It is not there or cannot be reached at present.
    MovieUnsupported
        It is no regular file.
    """
    with opened(path) as descriptor:
        return identity(os.fstat(descriptor))


def fingerprint(path: Path) -> str:
    """Hash (sha256) the size in decimal and the first and last MiB: tells a rewritten file at little cost."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        digest = hashlib.sha256(str(size).encode("ascii"))
        digest.update(read_up_to(descriptor, FINGERPRINT_BYTES, 0))
        digest.update(read_up_to(descriptor, FINGERPRINT_BYTES, max(0, size - FINGERPRINT_BYTES)))
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file for reading and give its descriptor.

    Raises
    ------
    MovieNotReady
        It is not there, may not be read yet, or the file system failed while it was read.
    MovieUnsupported
        It is a link, a directory, a FIFO, a socket or a device; none of these blocks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _as_streamer_error(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MovieUnsupported("is not a regular file", where=path)
        yield descriptor
    except OSError as error:
        raise _as_streamer_error(path, error) from error
    finally:
        os.close(descriptor)


def read_up_to(descriptor: int, count: int, offset: int) -> bytes:
    """Read ``count`` bytes at ``offset``, fewer only where the file ends before."""
    pieces = []
    while count > 0:
        piece = os.pread(descriptor, count, offset)
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
        offset += len(piece)
    return b"".join(pieces)


def read_into(descriptor: int, target: memoryview, offset: int) -> int:
    """Fill ``target`` from ``offset`` on; the number of bytes got, fewer only where the file ends before."""
    got = 0
    while got < len(target):
        step = os.preadv(descriptor, [target[got:]], offset + got)
        if step == 0:
            break
        got += step
    return got


def _as_streamer_error(path: Path, error: OSError) -> MovieNotReady | MovieUnsupported:
    """Say whether waiting can help."""
    reason = error.strerror or str(error)
    never = _NEVER_A_MOVIE.get(error.errno or 0)
    if never is not None:
        return MovieUnsupported(never, where=path, hint="name the file itself")
    # where the directory is gone as well, a volume may only be away for a while
    if error.errno == errno.ENOENT and path.parent.is_dir():
        return MovieVanished("is not there any more", where=path)
    return MovieUnreachable(f"cannot be read at present ({reason})", where=path)
