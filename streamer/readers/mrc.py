"""MRC movies: from a file to a checked header or counts (t, h, w) with row 0 at the bottom.

The header is parsed here, with bounds, before anything is allocated. Source of the layout: MRC2014, Cheng et
al. 2015, doi:10.1016/j.jsb.2015.04.002; IMOD's use of mode 0: bio3d.colorado.edu/imod/doc/mrc_format.txt.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import MovieNotReady, MovieUnsupported
from streamer.plausible import PIXEL_SIZE
from streamer.readers import remarks
from streamer.readers.encoding import (
    BY_NUMBERS_ALONE,
    has_packed_size,
    no_sign,
    not_packed,
    packing_of,
    sign_flags,
    sign_of,
)
from streamer.readers.files import CUT_SHORT, changed, damaged, opened, read_into, read_up_to
from streamer.records import MovieHeader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.readers.encoding import Sign

HEADER_BYTES = 1024
MAX_SIDE = 65_536
MAX_FRAMES = 20_000
MAX_EXTENDED_BYTES = 16 << 20

_PACKED = 101
_DTYPES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float16", _PACKED: "uint8"}
_COMPLEX = (3, 4)
# SerialEM and IMOD leave this number in their headers; only then do the flags next to it mean anything.
_IMOD_STAMP = 1_146_047_817
_IMOD_SIGNED_BYTES = 1
_IMOD_PACKED_4_BIT = 16
_LABEL_BYTES = 80
_SAMPLES_OF_A_FRAME, _SAMPLE_BYTES = 4, 1 << 16
_AGREE, _USUAL = 0.01, (0.2, 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """The fields of an MRC header that matter here, as stored."""

    nx: int
    ny: int
    nz: int
    mode: int
    mx: int
    cell_x: float
    limits: tuple[float, float]
    """Lowest and highest number, as far as the writer cared."""
    extended_bytes: int
    extended_kind: bytes
    imod_flags: int | None
    labels: tuple[str, ...]

    @property
    def start(self) -> int:
        """Of the first frame, in bytes from the beginning of the file."""
        return HEADER_BYTES + self.extended_bytes

    @property
    def row_bytes(self) -> int:
        """Of a stored row."""
        return -(-self.nx // 2) if self.mode == _PACKED else self.nx * np.dtype(_DTYPES[self.mode]).itemsize

    @property
    def may_be_half_width(self) -> bool:
        """Mode 0, whose bytes two counts may share unless IMOD says that they have a sign, and nothing of this."""
        return self.mode == 0 and (self.imod_flags or 0) & (_IMOD_SIGNED_BYTES | _IMOD_PACKED_4_BIT) != 1

    @property
    def is_said_half_width(self) -> bool:
        """Whether IMOD's flag, SerialEM's label or a size that only this explains says that two counts share a byte."""
        flagged = bool((self.imod_flags or 0) & _IMOD_PACKED_4_BIT)
        return flagged or any(map(remarks.is_packed, self.labels)) or has_packed_size(self.nx, self.ny)

    @property
    def sign(self) -> Sign:
        """What the file says: IMOD subtracts 128 where it writes signed bytes."""
        if self.mode != 0:
            return "unsigned" if self.mode == 6 else "signed"
        if self.imod_flags is None:
            return "signed"
        return "shifted" if self.imod_flags & _IMOD_SIGNED_BYTES else "unsigned"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How what is stored becomes counts."""

    dtype: str
    """numpy name."""
    is_packed: bool = False
    """A byte contains two counts, the first in its low half; rows begin at whole bytes."""
    is_half_width: bool = False
    """And the header counts bytes."""
    is_shifted: bool = False
    """Half of the range was subtracted."""
    flags: tuple[str, ...] = ()


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
    found, fields, reading = _checked(path, descriptor)
    if found != header:
        raise changed(path)
    frame_bytes = fields.row_bytes * header.height
    # for a number in two's complement, the top bit is the shift
    top = np.dtype(header.dtype).type(1 << (8 * np.dtype(header.dtype).itemsize - 1)) if reading.is_shifted else None

    def decode(index: int, frame: np.ndarray) -> None:
        stored = np.empty((header.height, fields.row_bytes), np.uint8) if reading.is_packed else frame
        got = read_into(descriptor, stored.reshape(-1).view(np.uint8).data, fields.start + index * frame_bytes)
        if got < frame_bytes:
            raise changed(path, "became shorter while it was read")
        if reading.is_packed:
            frame[:, 0::2] = stored & 15
            frame[:, 1::2] = (stored >> 4)[:, : header.width // 2]
        elif top is not None:
            frame ^= top

    return decode


def _checked(path: Path, descriptor: int) -> tuple[MovieHeader, _Fields, _Reading]:
    """Header, checked against the size of the file, its fields as stored, and how to read the numbers."""
    fields = _checked_fields(path, descriptor)
    reading = _reading(path, descriptor, fields)
    width = 2 * fields.nx if reading.is_half_width else fields.nx
    told = remarks.Remarks()
    if fields.extended_kind in remarks.FEI_KINDS:
        extended = read_up_to(descriptor, fields.extended_bytes, HEADER_BYTES)
        told = remarks.of_extended_header(fields.extended_kind, extended, fields.nz)
    pixel_size, flags = _pixel_size(fields, told, width)
    dose = told.dose_total
    header = MovieHeader(
        format="mrc",
        n_frames=fields.nz,
        height=fields.ny,
        width=width,
        dtype=reading.dtype,
        proves_its_length=True,
        pixel_size=pixel_size,
        voltage_kv=told.voltage_kv,
        frame_doses=None if dose is None else (dose / fields.nz,) * fields.nz,
        flags=reading.flags + flags,
    )
    return header, fields, reading


def _checked_fields(path: Path, descriptor: int) -> _Fields:
    """The fields of the header, which agree with the size of the file."""
    size = os.fstat(descriptor).st_size
    head = read_up_to(descriptor, HEADER_BYTES, 0)
    if len(head) < HEADER_BYTES:
        raise MovieNotReady(
            "is shorter than an MRC header",
            where=path,
            expected=f"{HEADER_BYTES} bytes",
            found=len(head),
            hint=CUT_SHORT,
        )
    if not any(head):
        raise MovieNotReady("has an empty header: not filled in yet", where=path, hint=CUT_SHORT)
    fields = _fields(head)
    _refuse_big_endian(path, head, fields)
    _check_bounds(path, fields)
    _check_mode(path, fields)
    expected = fields.start + fields.nz * fields.ny * fields.row_bytes
    if size != expected:
        raise MovieNotReady(
            "is shorter than its header says" if size < expected else "is longer than its header says",
            where=path,
            expected=f"{expected} bytes",
            found=f"{size} bytes",
            hint=CUT_SHORT,
        )
    return fields


def _pixel_size(fields: _Fields, told: remarks.Remarks, width: int) -> tuple[float | None, tuple[str, ...]]:
    """Å/px by the header's cell, in the unit that a label may give, by the extended header, or by a label."""
    labels = remarks.of_labels(list(fields.labels))
    cell = fields.cell_x / fields.mx * fields.nx / width if fields.mx > 0 else math.nan
    in_unit = cell * (labels.unit or 1.0)
    known = [
        (place, size)
        for place, value, unset in (
            ("extended header", told.pixel_size, None),
            ("label", labels.pixel_size, None),
            ("cell", in_unit, 1.0),
        )
        if value is not None and math.isfinite(size := float(value)) and size > 0 and size != unset
    ]
    # what cannot be one is said where the sources are compared, if there is nothing better
    known.sort(key=lambda one: PIXEL_SIZE.problem(one[1]) is not None)
    if not known:
        return None, ()
    place, size = known[0]
    if place == "cell" and in_unit != cell and all(_USUAL[0] <= one <= _USUAL[1] for one in (cell, in_unit)):
        # the format knows no unit but Å, whatever a label says
        return size, (f"pixel_size: {size:g} Å/px in the unit that the file's label names, {cell:g} in Å",)
    return size, tuple(
        f"pixel_size: the file's {place} says {size:g}, its {other_place} says {other:g}"
        for other_place, other in known[1:]
        if abs(other - size) > _AGREE * size
    )


def _reading(path: Path, descriptor: int, fields: _Fields) -> _Reading:
    """Decide from what the file says and from the numbers themselves how they are meant."""
    if fields.mode == _PACKED:
        return _Reading(dtype="uint8", is_packed=True)
    if fields.mode not in (0, 1, 6):
        return _Reading(dtype=_DTYPES[fields.mode])
    sample = _sample(descriptor, fields)
    if fields.may_be_half_width:
        packing = packing_of(sample.view(np.uint8))
        if fields.is_said_half_width and packing == "one count":
            raise not_packed(path, fields.nx, fields.ny)
        if fields.is_said_half_width or packing == "two counts":
            unsaid = () if fields.is_said_half_width else (BY_NUMBERS_ALONE,)
            return _Reading(dtype="uint8", is_packed=True, is_half_width=True, flags=unsaid)
    sign = sign_of(sample, named=fields.sign, limits=fields.limits)
    if sign is None:
        raise no_sign(path, sample, fields.mode)
    bits = 8 * sample.itemsize
    flags = sign_flags(sign, named=fields.sign, bits=bits)
    return _Reading(dtype=f"{'' if sign == 'signed' else 'u'}int{bits}", is_shifted=sign == "shifted", flags=flags)


def _sample(descriptor: int, fields: _Fields) -> np.ndarray:
    """(n,) integers from all over the movie, as unsigned ones."""
    item = np.dtype(_DTYPES[fields.mode]).itemsize
    frame_bytes = fields.row_bytes * fields.ny
    pieces = []
    for frame in sorted({0, fields.nz // 2, fields.nz - 1}):
        for part in range(_SAMPLES_OF_A_FRAME):
            # whole numbers, evenly spread over the frame
            first = frame_bytes * part // _SAMPLES_OF_A_FRAME // item * item
            last = frame_bytes * (part + 1) // _SAMPLES_OF_A_FRAME // item * item
            count = min(_SAMPLE_BYTES, last - first)
            pieces.append(read_up_to(descriptor, count, fields.start + frame * frame_bytes + first))
    return np.frombuffer(b"".join(piece[: len(piece) // item * item] for piece in pieces), f"<u{item}")


def _fields(head: bytes, byte_order: str = "<") -> _Fields:
    nx, ny, nz, mode = struct.unpack_from(f"{byte_order}4i", head, 0)
    (mx,) = struct.unpack_from(f"{byte_order}i", head, 28)
    (cell_x,) = struct.unpack_from(f"{byte_order}f", head, 40)
    lowest, highest = struct.unpack_from(f"{byte_order}2f", head, 76)
    (n_labels,) = struct.unpack_from(f"{byte_order}i", head, 220)
    (extended_bytes,) = struct.unpack_from(f"{byte_order}i", head, 92)
    stamp, flags = struct.unpack_from(f"{byte_order}2i", head, 152)
    return _Fields(
        nx=nx,
        ny=ny,
        nz=nz,
        mode=mode,
        mx=mx,
        cell_x=cell_x,
        limits=(lowest, highest),
        extended_bytes=extended_bytes,
        extended_kind=head[104:108],
        imod_flags=flags if stamp == _IMOD_STAMP else None,
        labels=tuple(
            head[start : start + _LABEL_BYTES].decode("latin-1").replace("\0", " ").strip()
            for start in range(224, 224 + _LABEL_BYTES * min(max(n_labels, 0), 10), _LABEL_BYTES)
        ),
    )


def _is_sane(fields: _Fields) -> bool:
    return (
        0 < fields.nx <= MAX_SIDE
        and 0 < fields.ny <= MAX_SIDE
        and 0 < fields.nz <= MAX_FRAMES
        and (fields.mode in _DTYPES or fields.mode in _COMPLEX)
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
            raise damaged(path, None, expected=f"{low} to {high}", found=f"an impossible {what} of {value}")


def _check_mode(path: Path, fields: _Fields) -> None:
    if fields.mode in _COMPLEX:
        found = f"MRC mode {fields.mode}"
        raise MovieUnsupported("contains complex numbers", where=path, found=found, hint="this is not a movie")
    if fields.mode not in _DTYPES:
        raise damaged(
            path, None, expected=f"a mode that is one of {sorted(_DTYPES)}", found=f"unknown mode {fields.mode}"
        )
