"""MRC movies: from a file to a checked header or counts (t, h, w) with row 0 at the bottom.

The header is parsed here, with bounds, before anything is allocated. Source of the layout: MRC2014, Cheng et
al. 2015, doi:10.1016/j.jsb.2015.04.002; IMOD's use of mode 0: bio3d.colorado.edu/imod/doc/mrc_format.txt.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported
from streamer.readers.files import opened, read_into, read_up_to
from streamer.records import MovieHeader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEADER_BYTES = 1024
MAX_SIDE = 65_536
MAX_FRAMES = 20_000
MAX_EXTENDED_BYTES = 16 << 20

_PACKED = 101
_DTYPES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16", _PACKED: "uint8"}
_REFUSED = {
    3: ("complex numbers (mode 3)", "this is not a movie"),
    4: ("complex numbers (mode 4)", "this is not a movie"),
}
# SerialEM and IMOD leave this number in their headers; only then do the flags next to it mean anything.
_IMOD_STAMP = 1_146_047_817
_IMOD_SIGNED_BYTES = 1
_IMOD_PACKED_4_BIT = 16
# Sizes (w, h) in mode 0 that no camera has: K2 and K3 super-resolution frames, packed, have twice the width.
_HALF_WIDTHS = {(3710, 7676), (3838, 7420), (5760, 8184), (4092, 11520)}

_PLAUSIBLE_PIXEL_SIZE = (0.05, 50.0)  # Å/px; outside it the field contains something else


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """The fields of an MRC header that matter here, as stored."""

    nx: int
    ny: int
    nz: int
    mode: int
    mx: int
    cell_x: float
    extended_bytes: int
    has_map_id: bool
    imod_flags: int | None

    @property
    def is_half_width(self) -> bool:
        """Mode 0 whose bytes are two counts of 4 bits each, by IMOD's flag or a size that only this explains."""
        flagged = self.imod_flags is not None and bool(self.imod_flags & _IMOD_PACKED_4_BIT)
        return self.mode == 0 and (flagged or (self.nx, self.ny) in _HALF_WIDTHS)

    @property
    def is_packed(self) -> bool:
        """Whether a byte contains two counts, the first in its low half; rows begin at whole bytes."""
        return self.mode == _PACKED or self.is_half_width

    @property
    def width(self) -> int:
        """Px."""
        return 2 * self.nx if self.is_half_width else self.nx


def looks_like_mrc(head: bytes) -> bool:
    """Whether a file begins with an MRC header: by its id, or else by sane dimensions."""
    if len(head) < HEADER_BYTES:
        return False
    return head[208:211] == b"MAP" or _is_sane(_fields(head)) or _is_sane(_fields(head, ">"))


def read_header(path: Path) -> MovieHeader:
    """Read and check the header of an MRC movie or image.

    Raises
    ------
    MovieNotReady
        The size of the file is not what the header promises: still growing, or truncated.
    MovieCorrupt
        The header contains impossible numbers.
    MovieUnsupported
        Big-endian or complex.
    """
    with opened(path) as descriptor:
        return _checked(path, descriptor)[0]


def decoder(path: Path, descriptor: int, header: MovieHeader) -> Callable[[int, np.ndarray], None]:
    """Return what reads frame i of an open file into (h, w); the file must still match ``header``."""
    found, fields = _checked(path, descriptor)
    if found != header:
        raise MovieNotReady("changed while it was read", where=path, expected=header, found=found)
    start = HEADER_BYTES + fields.extended_bytes
    row_bytes = _row_bytes(fields, header)
    frame_bytes = row_bytes * header.height

    def decode(index: int, frame: np.ndarray) -> None:
        packed = np.empty((header.height, row_bytes), np.uint8) if fields.is_packed else frame
        got = read_into(descriptor, packed.reshape(-1).view(np.uint8).data, start + index * frame_bytes)
        if got < frame_bytes:
            raise MovieNotReady("became shorter while it was read", where=path, expected=frame_bytes, found=got)
        if fields.is_packed:
            frame[:, 0::2] = packed & 15
            frame[:, 1::2] = (packed >> 4)[:, : header.width // 2]

    return decode


def _row_bytes(fields: _Fields, header: MovieHeader) -> int:
    return -(-header.width // 2) if fields.is_packed else header.width * np.dtype(header.dtype).itemsize


def _checked(path: Path, descriptor: int) -> tuple[MovieHeader, _Fields]:
    """Header, checked against the size of the file, and its fields as stored."""
    size = os.fstat(descriptor).st_size
    head = read_up_to(descriptor, HEADER_BYTES, 0)
    if len(head) < HEADER_BYTES:
        raise MovieNotReady(
            "is shorter than an MRC header", where=path, expected=f"{HEADER_BYTES} bytes", found=len(head)
        )
    if not any(head):
        raise MovieNotReady("has an empty header: not filled in yet", where=path)
    fields = _fields(head)
    _refuse_big_endian(path, head, fields)
    _check_bounds(path, fields)
    header = MovieHeader(
        format="mrc",
        n_frames=fields.nz,
        height=fields.ny,
        width=fields.width,
        dtype=_dtype(path, fields),
        proves_its_length=True,
        pixel_size=plausible_pixel_size(fields.cell_x / fields.mx * fields.nx / fields.width)
        if fields.mx > 0
        else None,
    )
    start = HEADER_BYTES + fields.extended_bytes
    expected = start + header.n_frames * header.height * _row_bytes(fields, header)
    if size != expected:
        raise MovieNotReady(
            "is shorter than its header says" if size < expected else "is longer than its header says",
            where=path,
            expected=f"{expected} bytes",
            found=f"{size} bytes",
            hint="still being written, or truncated",
        )
    return header, fields


def plausible_pixel_size(value: float) -> float | None:
    """Return the value in Å/px when it can be one, else None: unknown. A header that was never given one has 1."""
    low, high = _PLAUSIBLE_PIXEL_SIZE
    return float(value) if low <= value <= high and value != 1.0 else None


def _fields(head: bytes, byte_order: str = "<") -> _Fields:
    nx, ny, nz, mode = struct.unpack_from(f"{byte_order}4i", head, 0)
    (mx,) = struct.unpack_from(f"{byte_order}i", head, 28)
    (cell_x,) = struct.unpack_from(f"{byte_order}f", head, 40)
    (extended_bytes,) = struct.unpack_from(f"{byte_order}i", head, 92)
    stamp, flags = struct.unpack_from(f"{byte_order}2i", head, 152)
    return _Fields(
        nx=nx,
        ny=ny,
        nz=nz,
        mode=mode,
        mx=mx,
        cell_x=cell_x,
        extended_bytes=extended_bytes,
        has_map_id=head[208:211] == b"MAP",
        imod_flags=flags if stamp == _IMOD_STAMP else None,
    )


def _is_sane(fields: _Fields) -> bool:
    return (
        0 < fields.nx <= MAX_SIDE
        and 0 < fields.ny <= MAX_SIDE
        and 0 < fields.nz <= MAX_FRAMES
        and (fields.mode in _DTYPES or fields.mode in _REFUSED)
        and 0 <= fields.extended_bytes <= MAX_EXTENDED_BYTES
    )


def _refuse_big_endian(path: Path, head: bytes, fields: _Fields) -> None:
    # The machine stamp is often wrong in the wild, so the dimensions have to make sense that way round too.
    if not _is_sane(fields) and _is_sane(_fields(head, ">")):
        raise MovieUnsupported(
            "is a big-endian MRC file", where=path, hint="convert it, for example with IMOD: newstack in out"
        )


def _check_bounds(path: Path, fields: _Fields) -> None:
    limits = {
        "width": (fields.nx, 1, MAX_SIDE),
        "height": (fields.ny, 1, MAX_SIDE),
        "number of frames": (fields.nz, 1, MAX_FRAMES),
        "extended header": (fields.extended_bytes, 0, MAX_EXTENDED_BYTES),
    }
    for what, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise MovieCorrupt(
                f"has an impossible {what} in its header",
                where=path,
                expected=f"{low} to {high}",
                found=value,
            )


def _dtype(path: Path, fields: _Fields) -> str:
    """Numpy name of the stored type."""
    if fields.mode in _REFUSED:
        what, hint = _REFUSED[fields.mode]
        raise MovieUnsupported(f"contains {what}", where=path, hint=hint)
    if fields.mode not in _DTYPES:
        raise MovieCorrupt(
            "has an unknown mode in its header",
            where=path,
            expected=f"one of {sorted(_DTYPES)}",
            found=fields.mode,
        )
    if fields.is_packed:
        return "uint8"
    if fields.mode != 0 or fields.imod_flags is None:
        return _DTYPES[fields.mode]
    return "int8" if fields.imod_flags & _IMOD_SIGNED_BYTES else "uint8"
