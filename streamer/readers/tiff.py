"""TIFF movies: from a file to a checked header or counts (t, h, w) with row 0 at the bottom.

Pages are decoded in parallel, each strip into a buffer of exactly its declared size, so that a small file
cannot unpack to more than its checked header says.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported
from streamer.readers.files import opened, read_into, read_up_to
from streamer.readers.mrc import plausible_pixel_size
from streamer.readers.tiff_pages import Layout, Pages, Strips, read_pages
from streamer.records import MovieHeader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NONE, _LZW = 1, 5
_DECODERS: dict[int, Callable[..., Any]] = {
    _LZW: imagecodecs.lzw_decode,
    8: imagecodecs.deflate_decode,
    32946: imagecodecs.deflate_decode,
    32773: imagecodecs.packbits_decode,
    50000: imagecodecs.zstd_decode,
}
# Nothing can be compressed by more than this: an LZW code of 12 bits stands for fewer than 4096 bytes, a
# deflate symbol of 2 bits for 258 bytes, a PackBits pair for 128, a zstd block of 4 bytes for 128 KiB. A strip that
# claims more is damaged.
_MAX_RATIO = {_LZW: 4096, 8: 1040, 32946: 1040, 32773: 64, 50000: 40_000}
# The largest growth by compression is that of LZW, 12 bits for 8; the rest is for headers and padding.
_MAX_GROWTH, _SLACK_BYTES = 2, 1 << 16


def read_header(path: Path) -> MovieHeader:
    """Read and check the structure of a TIFF movie; nothing is decoded.

    Raises
    ------
    MovieNotReady
        Something is beyond the end of the file: still growing, or truncated.
    MovieCorrupt
        The structure contradicts itself.
    MovieUnsupported
        Tiles, colour, or a compression or sample type that is not supported.
    """
    with opened(path) as descriptor:
        return _header(path, read_pages(path, descriptor))


def decoder(path: Path, descriptor: int, header: MovieHeader) -> Callable[[int, np.ndarray], None]:
    """Return what decodes frame i of an open file into (h, w); the file must still match ``header``.

    Rows of a TIFF file start at the top and are flipped: row 0 is at the bottom. Reads give their offset, and each
    thread has a scratch strip of its own: no lock is needed.

    Raises
    ------
    MovieCorrupt
        When a strip cannot be decoded or is too short; the message names the frame, counted from 0.
    """
    pages = read_pages(path, descriptor)
    found = _header(path, pages)
    if found != header:
        raise MovieNotReady("changed while it was read", where=path, expected=header, found=found)
    layout = pages.layout
    stored = np.dtype(layout.dtype).newbyteorder(layout.byte_order)
    scratch = threading.local()

    def decode(page: int, frame: np.ndarray) -> None:
        if not hasattr(scratch, "strip"):
            columns = _row_bytes(layout) if layout.is_packed else layout.width
            scratch.strip = np.empty((layout.rows_per_strip, columns), stored)
        try:
            _decode_page(descriptor, layout, pages.strips[page], scratch.strip, frame)
        except (ValueError, RuntimeError) as error:
            raise _as_corrupt(path, descriptor, pages.strips[page], page, error) from error

    return decode


def _header(path: Path, pages: Pages) -> MovieHeader:
    layout = pages.layout
    _check_codec(path, layout)
    rows = np.full(len(pages.strips[0].counts), layout.rows_per_strip, np.int64)
    rows[-1] = layout.height - layout.rows_per_strip * (len(rows) - 1)
    wanted = rows * _row_bytes(layout)
    for page, strips in enumerate(pages.strips):
        _check_strip_sizes(path, layout, strips, wanted, page)
    return MovieHeader(
        format="tiff",
        n_frames=len(pages.strips),
        height=layout.height,
        width=layout.width,
        dtype=layout.dtype,
        pixel_size=None if pages.pixel_size is None else plausible_pixel_size(pages.pixel_size),
    )


def _row_bytes(layout: Layout) -> int:
    return -(-layout.width // 2) if layout.is_packed else layout.width * np.dtype(layout.dtype).itemsize


def _check_codec(path: Path, layout: Layout) -> None:
    if layout.compression != _NONE and layout.compression not in _DECODERS:
        raise MovieUnsupported(
            "has a compression that is not supported",
            where=path,
            expected="none, LZW, deflate, PackBits or zstd",
            found=f"TIFF compression {layout.compression}",
        )
    # Differences between neighbouring integers are supported (2), the floating-point variant (3) is not.
    whole = layout.dtype != "float32" and not layout.is_packed
    if layout.predictor != 1 and not (layout.predictor == 2 and whole and layout.compression != _NONE):
        raise MovieUnsupported(
            "has a predictor that is not supported", where=path, found=f"TIFF predictor {layout.predictor}"
        )


def _check_strip_sizes(path: Path, layout: Layout, strips: Strips, wanted: np.ndarray, page: int) -> None:
    """Refuse strips that cannot hold what they claim, before anything is allocated for them.

    Parameters
    ----------
    wanted : (n,) bytes of each strip when decoded.
    """
    if layout.compression == _NONE:
        too_short = strips.counts < wanted
    else:
        too_short = strips.counts * _MAX_RATIO[layout.compression] < wanted
    too_long = strips.counts > _MAX_GROWTH * wanted + _SLACK_BYTES
    for wrong, what in ((too_short, "too small for"), (too_long, "too large for")):
        if np.any(wrong):
            strip = int(np.argmax(wrong))
            raise MovieCorrupt(
                f"strip {strip} of frame {page} is {what} its rows",
                where=path,
                expected=f"{wanted[strip]} bytes decoded",
                found=f"{strips.counts[strip]} bytes stored",
            )


def _decode_page(descriptor: int, layout: Layout, strips: Strips, scratch: np.ndarray, frame: np.ndarray) -> None:
    """Decode one page into ``frame`` (h, w), flipped.

    Parameters
    ----------
    scratch : (rows per strip, w) of the stored type and byte order; overwritten.
    """
    for index in range(len(strips.offsets)):
        first = index * layout.rows_per_strip
        rows = min(layout.rows_per_strip, layout.height - first)
        _decode_strip(descriptor, layout, int(strips.offsets[index]), int(strips.counts[index]), scratch, rows)
        part = scratch[:rows]
        if layout.is_packed:
            part = np.stack([part >> 4, part & 15], axis=-1).reshape(rows, -1)[:, : layout.width]
        if layout.predictor == 2:
            # Differences wrap around, as the sum in the stored type does.
            part = np.cumsum(part, axis=1, dtype=frame.dtype)
        frame[layout.height - first - rows : layout.height - first] = part[::-1]


def _decode_strip(descriptor: int, layout: Layout, offset: int, count: int, scratch: np.ndarray, rows: int) -> None:
    """Read ``rows`` rows of one strip into ``scratch``; ValueError if it has fewer."""
    wanted = scratch[:rows].nbytes
    flat = scratch.reshape(-1).view(np.uint8)
    if layout.compression == _NONE:
        got = read_into(descriptor, flat[:wanted].data, offset)
    else:
        # The last strip of a page may be padded to full height, so the whole scratch strip is offered.
        got = len(_DECODERS[layout.compression](read_up_to(descriptor, count, offset), out=flat))
    if got < wanted:
        raise ValueError(f"strip has {got} of {wanted} bytes")


def _as_corrupt(
    path: Path, descriptor: int, strips: Strips, page: int, error: Exception
) -> MovieCorrupt | MovieNotReady:
    """What a failure to decode means: a strip of zeros has not been filled in yet by the copying program."""
    for offset, count in zip(strips.offsets, strips.counts, strict=True):
        if not read_up_to(descriptor, int(count), int(offset)).strip(b"\0"):
            return MovieNotReady(f"frame {page} is not filled in yet", where=path)
    return MovieCorrupt(f"frame {page} cannot be decoded ({error})", where=path)
