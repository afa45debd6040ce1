"""How files written by other programs are opened: regular files only, never blocking, through no unwanted link.

Every error of the operating system becomes a ``StreamerError`` here, so that nothing else has to know them. Below the
root that ``below`` names, a link is followed where it leads to a place inside the root, or inside a directory that the
settings allow; all others are refused. A link is never opened: its target is resolved, and the resolved path is then
opened component by component through no link at all, so that a file or directory that is swapped meanwhile does not
lead elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnreachable, MovieUnsupported, MovieVanished
from streamer.records import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

FINGERPRINT_BYTES = 1 << 20
FOLLOW_HINT = "give the file itself, or name the directory that the link leads to in watch.follow_links_to"

# Errors of opening things that will never be a movie, no matter how long we wait.
_NEVER_A_MOVIE = {
    errno.ELOOP: "is a symbolic link that is not followed",
    errno.ENXIO: "is a socket or a device",
    errno.ENODEV: "is a device",
    errno.ENAMETOOLONG: "has too long a name",
}
_GONE = "if it was moved or renamed, it is found under its new name by itself"
_WAITS = "is its volume mounted, and may the daemon read it? It is tried again by itself"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_PATH asks for no right to list the directory, only to pass through it.
_PASSED = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_LINK_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR)


class Bounds(NamedTuple):
    """What must not be left: the root, and the other directories to which links may lead."""

    root: Path
    places: tuple[str, ...] = ()

    def around(self, path: Path) -> Path | None:
        """The root or the place that a path is written to be in; None: it is in neither."""
        if path.is_relative_to(self.root):
            return self.root
        places = (Path(place) for written in self.places for place in (written, os.path.realpath(written)))
        return next((place for place in places if path.is_relative_to(place)), None)

    def pointed(self, path: Path) -> str | None:
        """Path that the first link on the way to ``path`` names, absolute; None: no link, or it vanished."""
        base = self.around(path)
        first = None if base is None else _first_link(path, base)
        try:
            if first is not None:
                return os.path.normpath(os.path.realpath(first.parent) / first.readlink())
        except OSError:
            pass
        return None

    def allows(self, pointed: str) -> bool:
        """Whether a path is written as one inside the root or an allowed place; it is not looked at."""
        written = (str(self.root), *self.places)
        return any(_is_within(pointed, place) for place in (*written, *map(os.path.realpath, written)))

    def target(self, path: Path) -> Target | None:
        """Where a path through links leads, if that is allowed; None: elsewhere, nowhere, or in a circle.

        What a link that points outside leads to is not touched: a volume that does not answer would hold us up.
        """
        pointed = self.pointed(path)
        if pointed is None or not self.allows(pointed):
            return None
        try:
            real = os.path.realpath(path, strict=True)
        except OSError:
            return None
        for place in map(os.path.realpath, (str(self.root), *self.places)):
            if _is_within(real, place):
                return Target(Path(place), os.path.relpath(real, place))
        return None


class Target(NamedTuple):
    """Where a link leads: a directory that must not be left, and the path below it, through no link."""

    place: Path
    relative: str

    @property
    def path(self) -> Path:
        """The file or directory itself."""
        return self.place / self.relative

    def open(self, flags: int) -> int:
        """Open it, through no link; raises OSError."""
        if self.relative == ".":
            return os.open(self.place, flags)
        with passed(self.place, PurePosixPath(self.relative).parent.as_posix()) as directory:
            return os.open(self.path.name, flags | os.O_NOFOLLOW, dir_fd=directory)

    def status(self) -> os.stat_result:
        """Its state, without following a link that has taken its place; raises OSError."""
        descriptor = self.open(os.O_PATH | os.O_CLOEXEC)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)


def _first_link(path: Path, root: Path) -> Path | None:
    """First link on the way from the root to a path; raises nothing, as what is absent is no link."""
    place = root
    for part in path.relative_to(root).parts:
        place /= part
        if place.is_symlink():
            return place
    return None


def _is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


_bounds: ContextVar[Bounds | None] = ContextVar("bounds", default=None)


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
def below(root: Path | None, places: tuple[str, ...] = ()) -> Iterator[None]:
    """While this lasts, ``opened`` and ``entries`` leave ``root`` through no link but into ``places``.

    Links that lead to the root itself are followed. It applies to this thread, and not to paths outside the root.
    """
    token = _bounds.set(None if root is None else Bounds(root, places))
    try:
        yield
    finally:
        _bounds.reset(token)


def link_target(path: Path) -> Path | None:
    """Where a path below the root leads, if a link that is followed is on the way; None: there is no such link."""
    bounds = _bounds.get()
    target = None if bounds is None else bounds.target(path)
    return None if target is None else target.path


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
    """Open a path; below a directory that must not be left, following only links that may be followed."""
    bounds = _bounds.get()
    base = None if bounds is None or ".." in path.parts else bounds.around(path)
    if bounds is None or base is None or path == base:
        return os.open(path, flags)
    relative = path.relative_to(base)
    try:
        with passed(base, relative.parent.as_posix()) as directory:
            return os.open(relative.name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        target = bounds.target(path) if error.errno in _LINK_IN_THE_WAY else None
        if target is None:
            raise
    return target.open(flags)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a regular file for reading and yield its descriptor.

    Raises
    ------
    MovieNotReady
        It does not exist, may not be read yet, or the file system failed while it was read.
    MovieUnsupported
        It is a link that is not followed, a directory, a FIFO, a socket or a device; none of these blocks.
    """
    try:
        descriptor = _open(path, _FILE)
    except OSError as error:
        raise _as_streamer_error(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MovieUnsupported("is not a regular file", where=path, hint="give the file itself")
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
        hint = FOLLOW_HINT if error.errno == errno.ELOOP else "give the file itself"
        return MovieUnsupported(never, where=path, hint=hint)
    if error.errno == errno.ENOTDIR:
        return MovieVanished("no longer exists: its directory is now a file or a link", where=path, hint=_GONE)
    # where the directory is gone as well, a volume may only be offline for a while
    if error.errno == errno.ENOENT and path.parent.is_dir():
        return MovieVanished("no longer exists", where=path, hint=_GONE)
    return MovieUnreachable(f"cannot be read at present ({reason})", where=path, hint=_WAITS)
