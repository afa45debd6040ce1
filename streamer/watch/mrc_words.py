"""What an MRC header says besides its sizes: who wrote it, what its values are like, how each image was taken."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.errors import StreamerError
from streamer.readers.files import opened, read_up_to
from streamer.readers.remarks import FEI_KINDS, of_extended_header

if TYPE_CHECKING:
    from pathlib import Path

_HEADER_BYTES, _LABELS, _LABEL_BYTES = 1024, 10, 80
_MAX_EXTENDED_BYTES = 4 << 20
_FIRST_BYTES = 256 << 10
_SIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("<i2"), 2: np.dtype("<f4"), 12: np.dtype("<f2")}
"""Modes of values that may be negative, and are then no counts."""
# SerialEM's extended header: a bit for each thing that is stored of an image, and its size in bytes, in this order.
_SERIALEM = ((1, 2), (2, 6), (4, 4), (8, 2), (16, 2), (32, 4))
_TILT, _PIECE = 1, 2


class MrcWords(NamedTuple):
    """What is known of an MRC file besides its sizes."""

    labels: str
    """All labels, in lower case."""
    statistics: tuple[float, float, float, float] | None
    """Smallest, largest, mean value and standard deviation; where the writer did not fill them in, of the first values
    of a file of floats or signed 16-bit numbers, else None."""
    tilts: tuple[float, ...] = ()
    """Degrees, one per image, where the file states them."""
    pieces: int = 0
    """How many different places of a montage the images have."""


def read_words(path: Path) -> MrcWords | None:
    """Read them; None where the file cannot be read."""
    try:
        with opened(path) as descriptor:
            head = read_up_to(descriptor, _HEADER_BYTES, 0)
            if len(head) < _HEADER_BYTES:
                return None
            (n_images,) = struct.unpack_from("<i", head, 8)
            (extended_bytes,) = struct.unpack_from("<i", head, 92)
            extended_bytes = max(0, extended_bytes)
            extended = read_up_to(descriptor, min(extended_bytes, _MAX_EXTENDED_BYTES), _HEADER_BYTES)
            first = read_up_to(descriptor, _FIRST_BYTES, _HEADER_BYTES + extended_bytes)
    except StreamerError:
        return None
    (n_labels,) = struct.unpack_from("<i", head, 220)
    count = n_labels if 0 <= n_labels <= _LABELS else _LABELS
    labels = head[224 : 224 + count * _LABEL_BYTES].decode("latin-1").lower()
    smallest, largest, mean = struct.unpack_from("<3f", head, 76)
    (deviation,) = struct.unpack_from("<f", head, 216)
    statistics: tuple[float, float, float, float] | None = smallest, largest, mean, deviation
    if not smallest < largest or not smallest <= mean <= largest:
        statistics = _of_first(first, struct.unpack_from("<i", head, 12)[0])
    tilts, pieces = _of_each_image(head, extended, n_images)
    return MrcWords(labels, statistics, tilts, pieces)


def _of_first(values: bytes, mode: int) -> tuple[float, float, float, float] | None:
    """Statistics of the first values; None where their type does not say whether they may be negative."""
    kind = _SIGNED.get(mode)
    if kind is None:
        return None
    numbers = np.frombuffer(values[: len(values) // kind.itemsize * kind.itemsize], kind).astype(np.float64)
    if not len(numbers) or not np.isfinite(numbers).all():
        return None
    return float(numbers.min()), float(numbers.max()), float(numbers.mean()), float(numbers.std())


def _of_each_image(head: bytes, extended: bytes, n_images: int) -> tuple[tuple[float, ...], int]:
    """Tilts, and number of different places, that an extended header of SerialEM or FEI states."""
    kind, n_bytes, flags = head[104:108], *struct.unpack_from("<2h", head, 128)
    if n_images < 2:
        return (), 0
    if kind in FEI_KINDS:
        return of_extended_header(kind, extended, n_images).tilts, 0
    stored = [(bit, size) for bit, size in _SERIALEM if flags & bit]
    if n_bytes <= 0 or n_bytes != sum(size for _, size in stored) or n_bytes * n_images > len(extended):
        return (), 0
    tilts, places, offset = (), 0, 0
    for bit, size in stored:
        at = [index * n_bytes + offset for index in range(n_images)]
        if bit == _TILT:
            tilts = tuple(struct.unpack_from("<h", extended, place)[0] / 100.0 for place in at)
        elif bit == _PIECE:
            places = len({extended[place : place + 6] for place in at})
        offset += size
    return tilts, places
