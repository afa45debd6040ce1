"""The entries of a TIFF file's directories, read with bounds in the file's byte order, and what they say of a page.

Classic TIFF and BigTIFF, little- and big-endian. Something beyond the end of the file means that it is still
being written (``MovieNotReady``); a contradiction is ``MovieCorrupt``. Pages are counted from 0 here, and from 1 in
messages.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from streamer.errors import MovieNotReady, MovieUnsupported
from streamer.readers.files import CUT_SHORT, changed, damaged, read_up_to

if TYPE_CHECKING:
    from pathlib import Path

MAX_ENTRIES = 256
MAX_SIDE = 65_536

WIDTH, HEIGHT, COMPRESSION = 256, 257, 259
_BITS, _FILL_ORDER = 258, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS = 273, 277, 278, 279
_X_RESOLUTION, _RESOLUTION_UNIT, _PREDICTOR, _TILE_WIDTH, _SAMPLE_FORMAT = 282, 296, 317, 322, 339
SUB_DIRECTORIES, _DEPTH = 330, 32997
_RATIONAL = 5
_MOST_COLOURS = 4
_NAMES = {
    WIDTH: "width",
    HEIGHT: "height",
    _BITS: "bits of a pixel",
    _STRIP_OFFSETS: "place of its pixels",
    _STRIP_COUNTS: "size",
}

EER_COMPRESSIONS = (65000, 65001, 65002)

_DTYPES = {
    (4, 1): "uint8",
    (8, 1): "uint8",
    (8, 2): "int8",
    (16, 1): "uint16",
    (16, 2): "int16",
    (32, 3): "float32",
}

_MAGIC: dict[bytes, tuple[Literal["<", ">"], bool]] = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
# TIFF type number -> numpy letter and size; the others are not supported.
_TYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}


_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""The same for ``struct``."""


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
                "is not complete",
                where=self.path,
                expected=f"at least {offset + count} bytes",
                found=f"{self.size} bytes, {what} is beyond them",
                hint=CUT_SHORT,
            )
        data = read_up_to(self.descriptor, count, offset)
        if len(data) < count:
            raise changed(self.path, "became shorter while it was read")
        return data

    def number(self, letter: str, offset: int, what: str) -> int:
        """Read one number in the file's byte order."""
        (value,) = struct.unpack(self.byte_order + letter, self.read(struct.calcsize(letter), offset, what))
        return int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What all pages of a movie have in common."""

    height: int
    width: int
    dtype: str
    """numpy name of the samples."""
    byte_order: Literal["<", ">"]
    compression: int
    predictor: int
    rows_per_strip: int
    is_packed: bool = False
    """Two samples of 4 bits in a byte, the first in its high half; rows begin at whole bytes."""

    @property
    def has_events(self) -> bool:
        """Whether the pages are streams of events, as those of an EER movie."""
        return self.compression in EER_COMPRESSIONS

    @property
    def row_bytes(self) -> int:
        """Of a row that is not compressed."""
        return -(-self.width // 2) if self.is_packed else self.width * np.dtype(self.dtype).itemsize

    @property
    def frame_bytes(self) -> int:
        """Of a frame that is not compressed."""
        return self.height * self.row_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """Where the strips of one page are; all inside the file."""

    offsets: np.ndarray
    """(n,) int64, bytes from the start of the file."""
    counts: np.ndarray
    """(n,) int64, bytes as stored."""


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
        raise MovieUnsupported("is not a TIFF file", where=path, hint="this is not a movie")
    byte_order, big = _MAGIC[head]
    file = TiffFile(path=path, descriptor=descriptor, size=size, byte_order=byte_order, big=big)
    if not big:
        return file, file.number("I", 4, "the header")
    # Size of an offset and a zero, 16 bits each.
    if (file.number("H", 4, "the header"), file.number("H", 6, "the header")) != (8, 0):
        raise damaged(path, None, found="a BigTIFF header that contradicts itself")
    return file, file.number("Q", 8, "the header")


def read_tags(file: TiffFile, offset: int, page: int) -> tuple[Tags, int]:
    """Read the entries of one directory and the offset of the next."""
    what = f"the directory of frame {page + 1}"
    count_letter, entry_format, pointer = ("Q", "HHQ8s", "Q") if file.big else ("H", "HHI4s", "I")
    n_entries = file.number(count_letter, offset, what)
    if n_entries == 0:
        raise MovieNotReady("is not complete", where=file.path, found=f"{what} is still empty", hint=CUT_SHORT)
    if n_entries > MAX_ENTRIES:
        raise damaged(
            file.path, page, expected=f"at most {MAX_ENTRIES} entries", found=f"{what} says that it has {n_entries}"
        )
    entry = struct.Struct(file.byte_order + entry_format)
    start = offset + struct.calcsize(count_letter)
    data = file.read(n_entries * entry.size + struct.calcsize(pointer), start, what)
    end = n_entries * entry.size
    tags = {number: (kind, count, value) for number, kind, count, value in entry.iter_unpack(data[:end])}
    (following,) = struct.unpack_from(file.byte_order + pointer, data, end)
    return tags, following


def tag_bytes(file: TiffFile, tags: Tags, number: int, most: int) -> bytes | None:
    """Read the first ``most`` bytes of a tag of bytes or text; None where there is none."""
    kind, count, value = tags.get(number, (0, 0, b""))
    if kind not in (1, 2, 7) or count == 0:
        return None
    if count <= len(value):
        return value[:count]
    (offset,) = struct.unpack(file.byte_order + ("Q" if file.big else "I"), value)
    return file.read(min(count, most), offset, f"TIFF tag {number}")


def tag_values(file: TiffFile, tags: Tags, number: int, page: int, *, n: int) -> np.ndarray | None:
    """Read the ``n`` values of a tag as int64; None if it is absent, MovieCorrupt if there are not n."""
    if number not in tags:
        return None
    kind, count, value = tags[number]
    if kind not in _TYPES or count != n:
        raise damaged(
            file.path, page, expected=f"{n} integers in TIFF tag {number}", found=f"{count} values of type {kind}"
        )
    dtype = np.dtype(file.byte_order + _TYPES[kind])
    nbytes = count * dtype.itemsize
    if nbytes > len(value):
        (offset,) = struct.unpack(file.byte_order + ("Q" if file.big else "I"), value)
        value = file.read(nbytes, offset, f"TIFF tag {number} of frame {page + 1}")
    # Beyond 63 bits they become negative, which no tag may be.
    return np.frombuffer(value[:nbytes], dtype).astype(np.int64)


def tag_value(file: TiffFile, tags: Tags, number: int, page: int, default: int | None = None) -> int:
    """Read a tag of one value; without a default it must be present."""
    if number in tags:
        kind, count, value = tags[number]
        letter = _LETTERS.get(kind)
        # a page has a dozen of these, and an EER movie has thousands of pages
        if letter is not None and count == 1 and struct.calcsize(letter) <= len(value):
            (only,) = struct.unpack_from(file.byte_order + letter, value)
            return int(only) if only < 1 << 63 else int(only) - (1 << 64)
        values = tag_values(file, tags, number, page, n=1)
        if values is not None:
            return int(values[0])
    if default is None:
        raise damaged(file.path, page, found=f"page {page + 1} without its {_NAMES.get(number, f'TIFF tag {number}')}")
    return default


def read_layout(file: TiffFile, tags: Tags, page: int) -> Layout:
    """Read how the pixels of a page are stored; MovieUnsupported for what no frame of a movie is."""
    compression = tag_value(file, tags, COMPRESSION, page, 1)
    _refuse_unsupported(file, tags, page)
    height, width = tag_value(file, tags, HEIGHT, page), tag_value(file, tags, WIDTH, page)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise damaged(
            file.path, page, expected=f"sides of 1 to {MAX_SIDE} px", found=f"{height} x {width} px in frame {page + 1}"
        )
    rows = tag_value(file, tags, _ROWS_PER_STRIP, page, height)
    if rows <= 0:
        raise damaged(file.path, page, found="strips without rows")
    return Layout(
        height=height,
        width=width,
        # events have no sample type
        dtype="uint8" if compression in EER_COMPRESSIONS else _dtype(file, tags, page),
        byte_order=file.byte_order,
        compression=compression,
        predictor=tag_value(file, tags, _PREDICTOR, page, 1),
        rows_per_strip=min(rows, height),
        is_packed=tag_value(file, tags, _BITS, page, 1) == 4,
    )


def _refuse_unsupported(file: TiffFile, tags: Tags, page: int) -> None:
    if _TILE_WIDTH in tags:
        raise MovieUnsupported("is a tiled TIFF", where=file.path, hint="save it in strips, as cameras do")
    n = max(tag_value(file, tags, _SAMPLES, page, 1), tag_value(file, tags, _DEPTH, page, 1))
    if n > _MOST_COLOURS or tag_value(file, tags, _DEPTH, page, 1) > 1:
        raise MovieUnsupported(
            "has all of its frames on one page",
            where=file.path,
            expected="a page for each frame",
            found=f"{n} images on page {page + 1}",
            hint="save it with a page for each frame, or as MRC",
        )
    if n != 1:
        raise MovieUnsupported("is a colour image", where=file.path, hint="this is not a movie")
    if tag_value(file, tags, _FILL_ORDER, page, 1) != 1:
        raise MovieUnsupported(
            "has the bits of each byte reversed (FillOrder 2)", where=file.path, hint="convert it with IMOD: newstack"
        )


def _dtype(file: TiffFile, tags: Tags, page: int) -> str:
    bits = tag_value(file, tags, _BITS, page, 1)
    kind = tag_value(file, tags, _SAMPLE_FORMAT, page, 1)
    if (bits, kind) not in _DTYPES:
        raise MovieUnsupported(
            "has a sample type that is not supported",
            where=file.path,
            expected="4, 8 or 16 bit integers or 32 bit floating point",
            found=f"{bits} bit, format {kind}",
            hint="convert it, for example with IMOD: newstack",
        )
    return _DTYPES[bits, kind]


def holds_frames_within(file: TiffFile, tags: Tags, layout: Layout, page: int) -> bool:
    """Whether a page has pages within that are as large as it is: frames, where small ones would be previews."""
    kind, count, value = tags.get(SUB_DIRECTORIES, (0, 0, b""))
    if kind not in (4, 13, 16, 18) or count < 1:
        return False
    letter = file.byte_order + _LETTERS[kind]
    # several offsets are stored elsewhere
    place = struct.calcsize(letter) * count > len(value)
    (offset,) = struct.unpack_from(file.byte_order + ("Q" if file.big else "I") if place else letter, value)
    if place:
        offset = file.number(_LETTERS[kind], offset, f"the list of pages within page {page + 1}")
    within, _ = read_tags(file, offset, page)
    sides = tag_value(file, within, HEIGHT, page, 0), tag_value(file, within, WIDTH, page, 0)
    return sides == (layout.height, layout.width)


def read_strips(file: TiffFile, tags: Tags, layout: Layout, page: int) -> Strips:
    """Read where the pixels of a page are."""
    n = -(-layout.height // layout.rows_per_strip)
    offsets = tag_values(file, tags, _STRIP_OFFSETS, page, n=n)
    counts = tag_values(file, tags, _STRIP_COUNTS, page, n=n)
    if offsets is None or counts is None:
        raise damaged(file.path, page, found=f"frame {page + 1} does not say where its pixels are")
    lowest = min(int(offsets.min()), int(counts.min()))
    if lowest < 0:
        raise damaged(file.path, page, found=f"the pixels of frame {page + 1} are at impossible places")
    if lowest == 0:
        raise MovieNotReady(
            "is not complete", where=file.path, found=f"frame {page + 1} is not written yet", hint=CUT_SHORT
        )
    # Both are checked against the size first, so that the sum cannot overflow.
    if max(int(offsets.max()), int(counts.max())) > file.size or int((offsets + counts).max()) > file.size:
        raise MovieNotReady(
            "is not complete",
            where=file.path,
            found=f"{file.size} bytes, frame {page + 1} goes beyond them",
            hint=CUT_SHORT,
        )
    return Strips(offsets=offsets, counts=counts)


def resolution(file: TiffFile, tags: Tags, unit: float | None) -> float | None:
    """Å/px from the resolution tags: pixels per inch (2, the default), per cm (3), or per ``unit`` (1), in Å."""
    kind, count, value = tags.get(_X_RESOLUTION, (0, 0, b""))
    if kind != _RATIONAL or count != 1:
        return None
    if not file.big:
        offset = struct.unpack(file.byte_order + "I", value)[0]
        value = file.read(8, offset, "the resolution")
    numerator, denominator = struct.unpack(file.byte_order + "2I", value)
    named = {1: unit, 2: 2.54e8, 3: 1e8}.get(tag_value(file, tags, _RESOLUTION_UNIT, 0, 2))
    if named is None or numerator == 0:
        return None
    return float(named * denominator / numerator)
