"""The entries of a TIFF file's directories: numbers, read with bounds, in the file's byte order.

Classic TIFF and BigTIFF, little- and big-endian. Something beyond the end of the file means that it is still
being written (``MovieNotReady``); a contradiction is ``MovieCorrupt``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported
from streamer.readers.files import read_up_to

if TYPE_CHECKING:
    from pathlib import Path

MAX_ENTRIES = 256

_MAGIC: dict[bytes, tuple[Literal["<", ">"], bool]] = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
# TIFF type number -> numpy letter and size; the others are not supported.
_TYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffFile:
    """An open TIFF file, with what its first bytes say."""

    path: Path
    descriptor: int
    size: int
    byte_order: Literal["<", ">"]
    big: bool
    """BigTIFF: offsets of 64 bits."""

    def read(self, count: int, offset: int, what: str) -> bytes:
        """Read exactly ``count`` bytes; a file that ends earlier is not ready."""
        if offset + count > self.size:
            raise MovieNotReady(
                f"{what} is beyond the end of the file",
                where=self.path,
                expected=f"at least {offset + count} bytes",
                found=f"{self.size} bytes",
                hint="still being written, or truncated",
            )
        data = read_up_to(self.descriptor, count, offset)
        if len(data) < count:
            raise MovieNotReady("became shorter while it was read", where=self.path)
        return data

    def number(self, letter: str, offset: int, what: str) -> int:
        """Read one number in the file's byte order."""
        (value,) = struct.unpack(self.byte_order + letter, self.read(struct.calcsize(letter), offset, what))
        return int(value)


Tags = dict[int, tuple[int, int, bytes]]
"""Tag number -> type, count and the entry's own bytes, which contain the values or their offset."""


def is_tiff(head: bytes) -> bool:
    """Whether a file begins like a TIFF file."""
    return head[:4] in _MAGIC


def open_tiff(path: Path, descriptor: int) -> tuple[TiffFile, int]:
    """Read the first bytes of a TIFF file, and the offset of its first directory, 0 for none yet."""
    size = os.fstat(descriptor).st_size
    head = read_up_to(descriptor, 4, 0)
    if head not in _MAGIC:
        raise MovieUnsupported("is not a TIFF file", where=path)
    byte_order, big = _MAGIC[head]
    file = TiffFile(path=path, descriptor=descriptor, size=size, byte_order=byte_order, big=big)
    if not big:
        return file, file.number("I", 4, "the header")
    # Size of an offset and a zero, 16 bits each.
    if (file.number("H", 4, "the header"), file.number("H", 6, "the header")) != (8, 0):
        raise MovieCorrupt("has a damaged BigTIFF header", where=path)
    return file, file.number("Q", 8, "the header")


def read_tags(file: TiffFile, offset: int, page: int) -> tuple[Tags, int]:
    """Read the entries of one directory and the offset of the next."""
    what = f"the directory of page {page}"
    count_letter, entry_format, pointer = ("Q", "HHQ8s", "Q") if file.big else ("H", "HHI4s", "I")
    n_entries = file.number(count_letter, offset, what)
    if n_entries == 0:
        raise MovieNotReady(f"{what} is empty: not filled in yet", where=file.path)
    if n_entries > MAX_ENTRIES:
        raise MovieCorrupt(
            f"{what} is too long", where=file.path, expected=f"at most {MAX_ENTRIES} entries", found=n_entries
        )
    entry = struct.Struct(file.byte_order + entry_format)
    start = offset + struct.calcsize(count_letter)
    data = file.read(n_entries * entry.size + struct.calcsize(pointer), start, what)
    end = n_entries * entry.size
    tags = {number: (kind, count, value) for number, kind, count, value in entry.iter_unpack(data[:end])}
    (following,) = struct.unpack_from(file.byte_order + pointer, data, end)
    return tags, following


def tag_values(file: TiffFile, tags: Tags, number: int, page: int, *, n: int) -> np.ndarray | None:
    """Read the ``n`` values of a tag as int64; None if it is absent, MovieCorrupt if there are not n."""
    if number not in tags:
        return None
    kind, count, value = tags[number]
    if kind not in _TYPES or count != n:
        raise MovieCorrupt(
            f"tag {number} of page {page} is damaged",
            where=file.path,
            expected=f"{n} integers",
            found=f"{count} of type {kind}",
        )
    dtype = np.dtype(file.byte_order + _TYPES[kind])
    nbytes = count * dtype.itemsize
    if nbytes > len(value):
        (offset,) = struct.unpack(file.byte_order + ("Q" if file.big else "I"), value)
        value = file.read(nbytes, offset, f"tag {number} of page {page}")
    # Beyond 63 bits they become negative, which no tag may be.
    return np.frombuffer(value[:nbytes], dtype).astype(np.int64)


def tag_value(file: TiffFile, tags: Tags, number: int, page: int, default: int | None = None) -> int:
    """Read a tag of one value; without a default it must be present."""
    values = tag_values(file, tags, number, page, n=1)
    if values is not None:
        return int(values[0])
    if default is None:
        raise MovieCorrupt(f"page {page} lacks tag {number}", where=file.path)
    return default
