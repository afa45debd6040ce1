"""The entry point for movie files: the format is recognised by the first bytes, never by the name.

A header is checked against the file's size before anything is allocated; counts are given as stored, (t, h, w),
with row 0 at the bottom; a file that changes while it is read is not ready.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import DeviceError, MovieError, MovieNotReady, MovieUnsupported, MovieVanished
from streamer.frame_stack import FrameStack
from streamer.readers import eer as eer_reader
from streamer.readers import mrc, tiff
from streamer.readers.content import LARGEST_COUNT as LARGEST_COUNT
from streamer.readers.content import Content
from streamer.readers.content import check_content as check_content
from streamer.readers.eer_metadata import holds_events
from streamer.readers.files import CUT_SHORT, below, changed, copy_again, opened, read_up_to, root_of
from streamer.readers.files import fingerprint as fingerprint
from streamer.readers.files import identity_of as identity_of
from streamer.readers.tiff_tags import is_tiff
from streamer.settings import EerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.records import FileIdentity, Movie, MovieHeader

LIMIT_BYTES = 16 << 30

_FOREIGN = (
    (b"\x1f\x8b", "a gzip file", "unpack it first: gunzip"),
    (b"BZh", "a bzip2 file", "unpack it first: bunzip2"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first: unzstd"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it first: unxz"),
    (b"PK\x03\x04", "a zip file", "unpack it first: unzip"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export the frames as TIFF or MRC"),
    (b"\x89PNG", "a PNG picture", "this is not a movie"),
    (b"\xff\xd8\xff", "a JPEG picture", "this is not a movie"),
    (b"\0\0\0\x04\0\0\0\0", "a DM4 file", "convert it, for example with IMOD: dm2mrc"),
    (b"\0\0\0\x03", "a DM3 file", "convert it, for example with IMOD: dm2mrc"),
    (b"%PDF", "a PDF document", "this is not a movie"),
    (b"SIMPLE  =", "a FITS file", "export the frames as TIFF or MRC"),
)


def read_header(path: Path, *, limit_bytes: int = LIMIT_BYTES, eer: EerSettings | None = None) -> MovieHeader:
    """Read the header of a movie, checked against the file and against what may be decoded.

    Parameters
    ----------
    limit_bytes : a movie that decodes to more is refused.
    eer : how EER movies are divided into frames.

    Raises
    ------
    MovieNotReady
        The file does not exist, is empty, or its size is not what its header promises: still growing, or truncated.
    MovieCorrupt
        It contradicts itself.
    MovieUnsupported
        It is not a movie, is of a kind that is not supported, or is too large.
    MovieMismatch
        An EER movie cannot be divided as the settings say.
    """
    if not _is_tiff(path):
        header = mrc.read_header(path)
    elif _is_eer(path):
        header = eer_reader.read_header(path, eer or EerSettings())
    else:
        header = tiff.read_header(path)
    size = f"{header.n_frames} frames of {header.height} x {header.width}, {header.decoded_bytes} bytes"
    if header.decoded_bytes > limit_bytes:
        raise MovieUnsupported(
            "decodes to more than is allowed",
            where=path,
            expected=f"at most {limit_bytes} bytes (compute.read_limit_gib)",
            found=size,
            hint="raise compute.read_limit_gib if the movie really is so large",
        )
    return header


def read_whole(
    movie: Movie,
    *,
    in_memory_bytes: int,
    threads: int,
    limit_bytes: int = LIMIT_BYTES,
    eer: EerSettings | None = None,
    places: tuple[str, ...] = (),
    stood_still: bool = False,
) -> tuple[MovieHeader, np.ndarray | FrameStack, Content]:
    """Read a movie that was found complete: its header, its frames, and what is in them, all of them checked.

    Links lead nowhere out of the watched root but into ``places``. Other parameters, and errors, are those of
    ``read_header``, ``read_counts`` and ``check_content``, except that anything wrong with a file that is no longer the
    one that was found is ``MovieNotReady``.
    """
    path = Path(movie.path)
    with below(root_of(movie.path, movie.relative), places):
        try:
            header = read_header(path, limit_bytes=limit_bytes, eer=eer)
            counts = read_counts(
                path,
                header,
                in_memory_bytes=in_memory_bytes,
                threads=threads,
                expected=movie.identity,
                eer=eer,
            )
            doses = _uneven_doses(movie, header)
            return header, counts, check_content(path, counts, doses=doses, stood_still=stood_still)
        except MovieError:
            # A file that is rewritten before or while it is read looks corrupt.
            _check_found(path, movie.identity)
            raise


def _uneven_doses(movie: Movie, header: MovieHeader) -> Sequence[float] | None:
    """What is known to have reached each frame, in whatever unit: frames may be uneven on purpose."""
    told = movie.acquisition.frame_doses
    if header.frame_doses is None and told is not None and len(told) == header.n_frames:
        return told
    return header.frame_doses or header.fraction_sizes


def read_counts(
    path: Path,
    header: MovieHeader,
    *,
    in_memory_bytes: int,
    threads: int,
    expected: FileIdentity | None = None,
    eer: EerSettings | None = None,
) -> np.ndarray | FrameStack:
    """Read all frames of a movie, as stored.

    Parameters
    ----------
    header : as returned by ``read_header``.
    in_memory_bytes : a movie that decodes to more is decoded again whenever its frames are requested.
    threads : how many frames are decoded at a time.
    expected : identity of the file when it was found complete.
    eer : as for ``read_header``.

    Returns
    -------
    (t, h, w), row 0 at the bottom.

    Raises
    ------
    MovieNotReady
        The file is not, or after reading no longer, the one that was found.
    MovieCorrupt
        A frame cannot be decoded.
    DeviceError
        There is not enough memory.
    """
    before = identity_of(path) if expected is None else _check_found(path, expected)

    def check() -> None:
        if _identity_now(path) != before:
            raise changed(path)

    def decoder(descriptor: int) -> Callable[[int, np.ndarray], None]:
        if header.format == "eer":
            return eer_reader.open_eer(path, descriptor, header, eer or EerSettings()).decode
        if header.format == "tiff":
            return tiff.decoder(path, descriptor, header)
        return mrc.decoder(path, descriptor, header)

    shape = (header.n_frames, header.height, header.width)
    dtype = np.dtype(header.dtype).newbyteorder("<")
    try:
        with opened(path) as descriptor:
            if header.decoded_bytes > in_memory_bytes:
                return FrameStack(descriptor, shape, dtype, decoder, ahead=threads, check=check)
            counts = np.empty(shape, dtype)
            _decode_all(decoder(descriptor), counts, threads)
    except MemoryError as error:
        raise DeviceError(
            "does not fit into memory",
            where=path,
            found=f"{header.decoded_bytes} bytes",
            hint="lower compute.frames_in_memory_gib",
        ) from error
    except MovieError:
        # A file that is rewritten while it is read looks corrupt.
        check()
        raise
    check()
    return counts


def _decode_all(decode: Callable[[int, np.ndarray], None], counts: np.ndarray, threads: int) -> None:
    if min(threads, len(counts)) <= 1:
        for index, frame in enumerate(counts):
            decode(index, frame)
        return
    with ThreadPoolExecutor(min(threads, len(counts)), thread_name_prefix="frames") as pool:
        list(pool.map(decode, range(len(counts)), counts))


def _check_found(path: Path, expected: FileIdentity) -> FileIdentity:
    """The identity of a file, which must be as when it was found; a remount, a new owner or mode are not a change."""
    found = _identity_now(path)
    if not found.has_same_content(expected):
        raise changed(path, "changed since it was found")
    return found


def _identity_now(path: Path) -> FileIdentity:
    """The identity of what was a movie a moment ago."""
    try:
        return identity_of(path)
    except MovieUnsupported as error:
        raise MovieVanished(
            f"no longer exists: what now has its name {error.what}", where=path, hint=error.hint
        ) from error


def _is_eer(path: Path) -> bool:
    """Whether the frames of a TIFF file are streams of events."""
    with opened(path) as descriptor:
        return holds_events(path, descriptor)


def _is_tiff(path: Path) -> bool:
    """True for TIFF, false for MRC; anything else is refused, saying what it is."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        head = read_up_to(descriptor, mrc.HEADER_BYTES, 0)
    if size == 0:
        raise MovieNotReady("is empty", where=path, hint=CUT_SHORT)
    if is_tiff(head):
        return True
    if mrc.looks_like_mrc(head) or not any(head):
        return False
    for magic, what, hint in _FOREIGN:
        if head.startswith(magic):
            raise MovieUnsupported(f"is {what}", where=path, expected="a TIFF, EER or MRC movie", hint=hint)
    if _is_text(head):
        printable = " ".join(head[:40].decode("latin-1").split())
        raise MovieUnsupported(
            "is a text file",
            where=path,
            expected="a TIFF, EER or MRC movie",
            found=f'"{printable}"',
            hint="this is not a movie",
        )
    if len(head) < mrc.HEADER_BYTES:
        raise MovieNotReady("is shorter than any header", where=path, found=f"{size} bytes", hint=CUT_SHORT)
    raise MovieUnsupported(
        "is not a movie of a known format",
        where=path,
        expected="a TIFF, EER or MRC movie",
        found=f"first bytes {head[:8].hex(' ')}",
        hint=f"if it should be one, {copy_again(path)}",
    )


def _is_text(head: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head)
