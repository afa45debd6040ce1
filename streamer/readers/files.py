"""How files written by other programs are opened: regular files only, never blocking, never through a link.

Every error of the operating system becomes a ``StreamerError`` here, so that nothing else has to know them. A link in
place of the file itself is always refused; one in place of a directory above it is refused where ``below`` has named
the root that must not be left.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnreachable, MovieUnsupported, MovieVanished
from streamer.records import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

FINGERPRINT_BYTES = 1 << 20

# Errors of opening things that will never be a movie, no matter how long we wait.
_NEVER_A_MOVIE = {
    errno.ELOOP: "is a symbolic link",
    errno.ENXIO: "is a socket or a device",
    errno.ENODEV: "is a device",
    errno.ENAMETOOLONG: "has too long a name",
}
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_PATH asks for no right to list the directory, only to pass through it.
_PASSED = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_root: ContextVar[Path | None] = ContextVar("root", default=None)


def identity(status: os.stat_result) -> FileIdentity:
    """Extract from a ``stat`` what distinguishes one state of a file from another."""
    return FileIdentity(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def identity_of(path: Path) -> FileIdentity:
    """Identity of a regular file.

    The file is opened rather than only looked up: that makes network file systems refresh what they know about it.

    Raises
    ------
    MovieNotReady
        It does not exist or cannot be reached at present.
    MovieUnsupported
        It is not a regular file.
    """
    with opened(path) as descriptor:
        return identity(os.fstat(descriptor))


def fingerprint(path: Path) -> str:
    """Hash (sha256) the size in decimal and the first and last MiB: detects a rewritten file at little cost."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        digest = hashlib.sha256(str(size).encode("ascii"))
        digest.update(read_up_to(descriptor, FINGERPRINT_BYTES, 0))
        digest.update(read_up_to(descriptor, FINGERPRINT_BYTES, max(0, size - FINGERPRINT_BYTES)))
    return digest.hexdigest()


@contextmanager
def below(root: Path | None) -> Iterator[None]:
    """While this lasts, ``opened`` and ``entries`` follow no link below ``root``; links that lead to it are followed.

    It applies to this thread, and not to paths outside the root.
    """
    token = _root.set(root)
    try:
        yield
    finally:
        _root.reset(token)


def root_of(path: str, relative: str) -> Path | None:
    """The directory that ``relative`` starts from; None where the path does not end with it."""
    parts, end = PurePosixPath(path).parts, PurePosixPath(relative).parts
    return Path(*parts[: -len(end)]) if end and parts[-len(end) :] == end else None


@contextmanager
def passed(root: Path, relative: str) -> Iterator[int]:
    """Descend from ``root`` to a directory, component by component and through no link; yields its descriptor.

    It can be used as ``dir_fd`` only. A directory that is swapped for a link meanwhile, ahead of us or behind us, does
    not lead us elsewhere.

    Raises
    ------
    OSError
        It does not exist, cannot be reached, or (``ENOTDIR``) a link is on the way.
    """
    descriptor = os.open(root, _PASSED)
    try:
        for part in PurePosixPath(relative).parts:
            inner = os.open(part, _PASSED | os.O_NOFOLLOW, dir_fd=descriptor)
            descriptor, outer = inner, descriptor
            os.close(outer)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def entries(directory: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    """List a directory; the entries know their names, not their directory. Raises OSError."""
    descriptor = _open(directory, _LISTED)
    try:
        with os.scandir(descriptor) as found:
            yield found
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """Open a path; below the root that must not be left, without following any link."""
    root = _root.get()
    if root is None or path == root or not path.is_relative_to(root) or ".." in path.parts:
        return os.open(path, flags)
    relative = path.relative_to(root)
    with passed(root, relative.parent.as_posix()) as directory:
        return os.open(relative.name, flags | os.O_NOFOLLOW, dir_fd=directory)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file for reading and yield its descriptor.

    Raises
    ------
    MovieNotReady
        It does not exist, may not be read yet, or the file system failed while it was read.
    MovieUnsupported
        It is a link, a directory, a FIFO, a socket or a device; none of these blocks.
    """
    try:
        descriptor = _open(path, _FILE)
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


CUT_SHORT = "still being written, or the copy was interrupted: if it stays like this, copy it again"


def damaged(path: Path, page: int | None, *, found: object = "", expected: object = "") -> MovieCorrupt:
    """What to say of a file whose content contradicts itself, to the person who has the original.

    Parameters
    ----------
    page : image at which it was noticed, from 0; None: before the first one.
    found, expected : detail, in the words of the file format.
    """
    what = "is damaged at its beginning" if page is None else f"is damaged after frame {page}"
    return MovieCorrupt(
        "is damaged at its first frame" if page == 0 else what,
        where=path,
        expected=expected,
        found=found,
        hint=copy_again(path),
    )


def changed(path: Path, what: str = "changed while it was read") -> MovieNotReady:
    """What to say of a file that is not the one it was a moment ago."""
    return MovieNotReady(
        what, where=path, hint="another program is still writing it: it is looked at again when it stands still"
    )


def copy_again(path: Path) -> str:
    """What to do about a damaged file."""
    return (
        "copy it again from the camera's computer; if the original is damaged too, leave it out: "
        f"streamer movies skip {path.name}"
    )


def read_up_to(descriptor: int, count: int, offset: int) -> bytes:
    """Read ``count`` bytes at ``offset``, fewer only if the file ends earlier."""
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
    """Fill ``target`` from ``offset`` on; returns the number of bytes read, fewer only if the file ends earlier."""
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
        return MovieUnsupported(never, where=path, hint="give the file itself")
    if error.errno == errno.ENOTDIR:
        return MovieVanished("no longer exists: its directory is now a file or a symbolic link", where=path)
    # where the directory is gone as well, a volume may only be offline for a while
    if error.errno == errno.ENOENT and path.parent.is_dir():
        return MovieVanished("no longer exists", where=path)
    return MovieUnreachable(f"cannot be read at present ({reason})", where=path)
