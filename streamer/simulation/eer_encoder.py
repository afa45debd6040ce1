"""Writes EER movies: events of single hardware frames as run lengths, a page each in a BigTIFF file.

A stream is a row of codes, lowest bit first. A code is the number of empty pixels before an event, followed by the
event's sub-pixel position along x and y; the largest number stands for that many empty pixels and no event. The highest
bit of a sub-pixel position is inverted, so that 0 is the upper half.
Source: Guo et al. 2020, doi:10.1107/S205225252000929X; the bits were checked against imagecodecs' decoder.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

BITS = {65000: (8, 2, 2), 65001: (7, 2, 2)}
"""Compression -> bits of a run length, of the sub-pixel position along x and y; 65002 states them."""
_ASCII, _SHORT, _LONG, _LONG8 = 2, 3, 4, 16


@dataclass(frozen=True, slots=True)
class Events:
    """Electrons of one hardware frame, at most one to a pixel."""

    places: NDArray[np.int64]
    """(n,) row · width + column of the physical pixel, ascending."""
    x: NDArray[np.int64]
    """(n,) which quarter of the pixel along x, 0…3."""
    y: NDArray[np.int64]
    """(n,) the same along y."""


def encode_frame(events: Events, n_pixels: int, bits: tuple[int, int, int]) -> bytes:
    """Stream of one hardware frame of ``n_pixels`` px, padded to whole words of 16 bits."""
    run_bits, x_bits, y_bits = bits
    longest = 2**run_bits - 1
    # a code beyond the last pixel, which is not an event, says how many empty ones follow the last event
    gaps = np.diff(np.append(events.places, n_pixels), prepend=-1) - 1
    pauses = gaps // longest
    codes = np.full(int(pauses.sum()) + len(gaps), longest)
    lengths = np.full(len(codes), run_bits)
    at = np.cumsum(pauses) + np.arange(len(gaps))
    x, y = (np.append(_turned(quarter, n), 0) for quarter, n in ((events.x, x_bits), (events.y, y_bits)))
    codes[at] = (gaps % longest) | x << run_bits | y << (run_bits + x_bits)
    lengths[at] = run_bits + x_bits + y_bits
    start = np.cumsum(lengths) - lengths
    stream = np.zeros(-(-int(lengths.sum()) // 16) * 16, dtype=np.uint8)
    for bit in range(sum(bits)):
        there = lengths > bit
        stream[start[there] + bit] = codes[there] >> bit & 1
    return np.packbits(stream, bitorder="little").tobytes()


def _turned(quarter: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Sub-pixel position as it is stored in 0…2 bits."""
    return (quarter >> (2 - bits)) ^ (1 << bits - 1) if bits else np.zeros_like(quarter)


def encode_eer(
    streams: Iterable[bytes],
    shape: tuple[int, int],
    *,
    compression: int = 65001,
    bits: tuple[int, int, int] | None = None,
    metadata: dict[str, tuple[str, str]] | None = None,
) -> bytes:
    """Put streams of hardware frames into a BigTIFF file.

    Parameters
    ----------
    shape : (h, w) physical px.
    bits : stated in the file with compression 65002.
    metadata : name -> unit (may be empty) and value, of the acquisition.
    """
    items = "".join(
        f'<item name="{name}"{f""" unit="{unit}" """.rstrip() if unit else ""}>{value}</item>'
        for name, (unit, value) in (metadata or {}).items()
    )
    document = f"<metadata>{items}</metadata>\0".encode() if metadata else b""
    parts, offset = [struct.pack("<4sHHQ", b"II+\0", 8, 0, 16)], 16
    streams = list(streams)
    for number, stream in enumerate(streams):
        more = document if number == 0 else b""
        entries = [
            (256, _LONG, 1, shape[1]),
            (257, _LONG, 1, shape[0]),
            (258, _SHORT, 1, 1),
            (259, _SHORT, 1, compression),
            (262, _SHORT, 1, 1),
            (273, _LONG8, 1, 0),
            (277, _SHORT, 1, 1),
            (278, _LONG, 1, shape[0]),
            (279, _LONG8, 1, len(stream)),
        ]
        if more:
            entries.append((65001, _ASCII, len(more), 0))
        if bits is not None:
            entries += [(65007 + n, _SHORT, 1, value) for n, value in enumerate(bits)]
        size = 8 + 20 * len(entries) + 8
        places = {273: offset + size + len(more), 65001: offset + size}
        end = offset + size + len(more) + len(stream)
        directory = struct.pack("<Q", len(entries))
        for tag, kind, count, value in entries:
            stored = places[tag] if tag in places and not (tag == 65001 and count <= 8) else value
            directory += struct.pack("<HHQQ", tag, kind, count, stored)
        directory += struct.pack("<Q", end if number < len(streams) - 1 else 0)
        parts += [directory, more, stream]
        offset = end
    return b"".join(parts)


def events_of(counts: NDArray[np.uint8], n_raw: int, rng: np.random.Generator) -> list[Events]:
    """Divide the counts (h, w) of a frame over ``n_raw`` hardware frames, no pixel twice in one of them.

    Raises
    ------
    ValueError
        A pixel has more counts than there are hardware frames.
    """
    if int(counts.max(initial=0)) > n_raw:
        raise ValueError(f"a pixel of {counts.max()} counts does not fit into {n_raw} hardware frames")
    flat = counts.ravel()
    places = np.repeat(np.arange(flat.size), flat)
    # each electron by itself, so that the counts of any hardware frames are as independent as a Poisson process's
    raw = rng.integers(0, n_raw, len(places))
    starts = np.cumsum(flat, dtype=np.int64) - flat
    for place in np.flatnonzero(flat > n_raw // 2):
        raw[starts[place] : starts[place] + flat[place]] = rng.permutation(n_raw)[: flat[place]]
    while True:
        keys = places * n_raw + raw
        order = np.argsort(keys, kind="stable")
        twice = order[1:][keys[order[1:]] == keys[order[:-1]]]
        if len(twice) == 0:
            break
        raw[twice] = rng.integers(0, n_raw, len(twice))
    x, y = rng.integers(0, 4, (2, len(places)))
    order = np.argsort(raw, kind="stable")
    cuts = np.searchsorted(raw[order], np.arange(n_raw + 1))
    return [
        Events(places=places[part], x=x[part], y=y[part])
        for part in (order[start:stop] for start, stop in zip(cuts[:-1], cuts[1:], strict=True))
    ]
