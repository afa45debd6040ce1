"""The structure of a TIFF file: where the strips of each page are, checked before anything is decoded.

Classic TIFF and BigTIFF, little- and big-endian. Something beyond the end of the file means that it is still
being written (``MovieNotReady``); a contradiction is ``MovieCorrupt``. Source: TIFF 6.0, Adobe 1992,
and the BigTIFF design of libtiff.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported
from streamer.readers.files import read_up_to
from streamer.readers.tiff_tags import Tags, TiffFile, is_tiff, open_tiff, read_tags, tag_value, tag_values

if TYPE_CHECKING:
    from pathlib import Path

MAX_PAGES = 20_000
MAX_SIDE = 65_536
MAX_STRIPS = 4_000_000
"""Over all pages: no camera comes close, and a file cannot make us store more than this many offsets."""

_RATIONAL = 5
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER = 256, 257, 258, 259, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS = 273, 277, 278, 279
_X_RESOLUTION, _RESOLUTION_UNIT, _PREDICTOR, _TILE_WIDTH, _SAMPLE_FORMAT = 282, 296, 317, 322, 339

EER_COMPRESSIONS = (65000, 65001, 65002)
_EER_METADATA, _EER_BITS = 65001, (65007, 65008, 65009)
_MAX_METADATA_BYTES = 1 << 22

_DTYPES = {
    (4, 1): "uint8",
    (8, 1): "uint8",
    (8, 2): "int8",
    (16, 1): "uint16",
    (16, 2): "int16",
    (32, 3): "float32",
}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """Where the strips of one page are; all inside the file."""

    offsets: np.ndarray
    """(n,) int64, bytes from the start of the file."""
    counts: np.ndarray
    """(n,) int64, bytes as stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The structure of a whole file."""

    layout: Layout
    strips: tuple[Strips, ...]
    """Per page."""
    pixel_size: float | None
    """Å/px from the resolution tags, unchecked."""
    eer_metadata: bytes | None = None
    """XML document of an EER movie."""
    eer_bits: tuple[int, int, int] = (0, 0, 0)
    """Of a run length, and of the sub-pixel position along x and y, where an EER movie states them."""


def read_pages(path: Path, descriptor: int) -> Pages:
    """Walk through all pages of a TIFF file.

    Raises
    ------
    MovieNotReady
        A page or a strip is beyond the end of the file, or is not filled in yet.
    MovieCorrupt
        The structure contradicts itself.
    MovieUnsupported
        It is valid, but of a kind that is not supported.
    """
    return _walk(*open_tiff(path, descriptor))


def first_compression(path: Path, descriptor: int) -> int:
    """How the first page of a TIFF file is compressed, 1 for not at all and 0 where there is no page yet."""
    file, offset = open_tiff(path, descriptor)
    if offset < 8:
        return 0
    tags, _ = read_tags(file, offset, 0)
    return tag_value(file, tags, _COMPRESSION, 0, 1)


def first_eer_metadata(path: Path, descriptor: int) -> bytes | None:
    """The document about the acquisition in the first page of an EER file; None where there is none."""
    if not is_tiff(read_up_to(descriptor, 4, 0)):
        return None
    file, offset = open_tiff(path, descriptor)
    return _bytes(file, read_tags(file, offset, 0)[0], _EER_METADATA) if offset >= 8 else None


def _walk(file: TiffFile, offset: int) -> Pages:
    layout: Layout | None = None
    pixel_size: float | None = None
    metadata: bytes | None = None
    bits: tuple[int, int, int] = (0, 0, 0)
    strips: list[Strips] = []
    seen: set[int] = set()
    total = 0
    while offset != 0:
        page = len(seen)
        _check_offset(file, offset, page, seen)
        tags, following = read_tags(file, offset, page)
        found = _layout(file, tags, page)
        if layout is None:
            layout, pixel_size = found, _pixel_size(file, tags)
            if layout.compression in EER_COMPRESSIONS:
                metadata = _bytes(file, tags, _EER_METADATA)
                skip, horizontal, vertical = (tag_value(file, tags, number, page, 0) for number in _EER_BITS)
                bits = (skip, horizontal, vertical)
        elif found != layout:
            raise MovieCorrupt(f"page {page} differs from page 0", where=file.path, expected=layout, found=found)
        strips.append(_strips(file, tags, layout, page))
        total += len(strips[-1].offsets)
        if total > MAX_STRIPS:
            raise MovieCorrupt("has too many strips", where=file.path, expected=f"at most {MAX_STRIPS}")
        offset = following
    if layout is None:
        raise MovieNotReady("has no page yet", where=file.path)
    return Pages(layout=layout, strips=tuple(strips), pixel_size=pixel_size, eer_metadata=metadata, eer_bits=bits)


def _check_offset(file: TiffFile, offset: int, page: int, seen: set[int]) -> None:
    if offset in seen:
        raise MovieCorrupt(f"page {page} repeats an earlier page", where=file.path)
    if page >= MAX_PAGES:
        raise MovieCorrupt("has too many pages", where=file.path, expected=f"at most {MAX_PAGES}")
    if offset < 8:
        raise MovieCorrupt(f"page {page} is inside the header", where=file.path, found=offset)
    seen.add(offset)


def _layout(file: TiffFile, tags: Tags, page: int) -> Layout:
    compression = tag_value(file, tags, _COMPRESSION, page, 1)
    _refuse_unsupported(file, tags, page)
    height, width = tag_value(file, tags, _HEIGHT, page), tag_value(file, tags, _WIDTH, page)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise MovieCorrupt(
            f"page {page} has an impossible size",
            where=file.path,
            expected=f"1 to {MAX_SIDE}",
            found=f"{height} x {width}",
        )
    rows = tag_value(file, tags, _ROWS_PER_STRIP, page, height)
    if rows <= 0:
        raise MovieCorrupt(f"page {page} has strips without rows", where=file.path)
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
        raise MovieUnsupported("is a tiled TIFF", where=file.path, hint="save it in strips")
    if tag_value(file, tags, _SAMPLES, page, 1) != 1:
        raise MovieUnsupported("is a colour image", where=file.path)
    if tag_value(file, tags, _FILL_ORDER, page, 1) != 1:
        raise MovieUnsupported("has the bits of each byte reversed (FillOrder 2)", where=file.path)


def _dtype(file: TiffFile, tags: Tags, page: int) -> str:
    bits = tag_value(file, tags, _BITS, page, 1)
    kind = tag_value(file, tags, _SAMPLE_FORMAT, page, 1)
    if (bits, kind) not in _DTYPES:
        raise MovieUnsupported(
            "has a sample type that is not supported",
            where=file.path,
            expected="4, 8 or 16 bit integers or 32 bit floating point",
            found=f"{bits} bit, format {kind}",
        )
    return _DTYPES[bits, kind]


def _strips(file: TiffFile, tags: Tags, layout: Layout, page: int) -> Strips:
    n = -(-layout.height // layout.rows_per_strip)
    offsets = tag_values(file, tags, _STRIP_OFFSETS, page, n=n)
    counts = tag_values(file, tags, _STRIP_COUNTS, page, n=n)
    if offsets is None or counts is None:
        raise MovieCorrupt(f"page {page} does not say where its strips are", where=file.path)
    if np.any(offsets < 0) or np.any(counts < 0):
        raise MovieCorrupt(f"page {page} has strips at impossible places", where=file.path)
    if not (np.all(offsets) and np.all(counts)):
        raise MovieNotReady(f"page {page} has strips that are not written yet", where=file.path)
    # The counts are checked against the size first, so that the sum cannot overflow.
    if np.any(counts > file.size) or np.any(offsets > file.size - counts):
        raise MovieNotReady(
            f"a strip of page {page} is beyond the end of the file",
            where=file.path,
            found=f"{file.size} bytes",
            hint="still being written, or truncated",
        )
    return Strips(offsets=offsets, counts=counts)


def _bytes(file: TiffFile, tags: Tags, number: int) -> bytes | None:
    """Content of a tag of bytes or text; None where there is none."""
    kind, count, value = tags.get(number, (0, 0, b""))
    if kind not in (1, 2, 7) or count == 0:
        return None
    if count > _MAX_METADATA_BYTES:
        raise MovieCorrupt(f"tag {number} is too long", where=file.path, found=f"{count} bytes")
    if count <= len(value):
        return value[:count]
    (offset,) = struct.unpack(file.byte_order + ("Q" if file.big else "I"), value)
    return file.read(count, offset, f"tag {number}")


def _pixel_size(file: TiffFile, tags: Tags) -> float | None:
    """Å/px from the resolution tags: pixels per inch (unit 2, the default) or per centimetre (unit 3)."""
    kind, count, value = tags.get(_X_RESOLUTION, (0, 0, b""))
    if kind != _RATIONAL or count != 1:
        return None
    if not file.big:
        offset = struct.unpack(file.byte_order + "I", value)[0]
        value = file.read(8, offset, "the resolution")
    numerator, denominator = struct.unpack(file.byte_order + "2I", value)
    unit = {2: 2.54e8, 3: 1e8}.get(tag_value(file, tags, _RESOLUTION_UNIT, 0, 2))
    if unit is None or numerator == 0:
        return None
    return float(unit * denominator / numerator)
