"""TIFF movies: from a file to a checked header or counts (t, h, w) with row 0 at the bottom.

Pages are decoded in parallel, each strip into a buffer of exactly its declared size, so that a small file
cannot unpack to more than its checked header says.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from streamer.errors import MovieNotReady, MovieUnsupported
from streamer.readers.encoding import BY_NUMBERS_ALONE, has_packed_size, not_packed, packing_of
from streamer.readers.files import CUT_SHORT, changed, damaged, opened, read_into, read_up_to
from streamer.readers.remarks import plausible_pixel_size
from streamer.readers.tiff_pages import Pages, read_pages
from streamer.records import MovieHeader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.errors import MovieCorrupt
    from streamer.readers.tiff_tags import Layout, Strips

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
_SAMPLES_OF_A_PAGE, _SAMPLE_BYTES = 4, 1 << 16


def read_header(path: Path) -> MovieHeader:
    """Read and check the structure of a TIFF movie; some strips of bytes are decoded, to see how they are packed.

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
        return _header(path, descriptor, read_pages(path, descriptor))[0]


def decoder(path: Path, descriptor: int, header: MovieHeader) -> Callable[[int, np.ndarray], None]:
    """Return what decodes frame i of an open file into (h, w); the file must still match ``header``.

    Rows of a TIFF file start at the top and are flipped: row 0 is at the bottom. Reads give their offset, and each
    thread has a scratch strip of its own: no lock is needed.

    Raises
    ------
    MovieCorrupt
        When a strip cannot be decoded or is too short; the message names the frame, counted from 1.
    """
    pages = read_pages(path, descriptor)
    found, is_half_width = _header(path, descriptor, pages)
    if found != header:
        raise changed(path)
    layout = pages.layout
    stored = np.dtype(layout.dtype).newbyteorder(layout.byte_order)
    scratch = threading.local()

    def decode(page: int, frame: np.ndarray) -> None:
        if not hasattr(scratch, "strip"):
            scratch.strip = _scratch(layout, stored)
        try:
            _decode_page(descriptor, layout, pages.strips[page], scratch.strip, frame, is_half_width=is_half_width)
        except (ValueError, RuntimeError) as error:
            raise _as_corrupt(path, descriptor, pages.strips[page], page, error) from error

    return decode


def _scratch(layout: Layout, stored: np.dtype[Any]) -> np.ndarray:
    """(rows per strip, stored numbers of a row), not filled."""
    return np.empty((layout.rows_per_strip, layout.row_bytes // stored.itemsize), stored)


def _header(path: Path, descriptor: int, pages: Pages) -> tuple[MovieHeader, bool]:
    """Header, and whether two counts share each byte, so that frames are twice as wide as pages."""
    layout = pages.layout
    _check_codec(path, layout)
    rows = np.full(len(pages.strips[0].counts), layout.rows_per_strip, np.int64)
    rows[-1] = layout.height - layout.rows_per_strip * (len(rows) - 1)
    wanted = rows * layout.row_bytes
    for page, strips in enumerate(pages.strips):
        _check_strip_sizes(path, layout, strips, wanted, page)
    is_half_width, flags = _is_half_width(path, descriptor, pages)
    header = MovieHeader(
        format="tiff",
        n_frames=len(pages.strips),
        height=layout.height,
        width=2 * layout.width if is_half_width else layout.width,
        dtype=layout.dtype,
        pixel_size=None if pages.pixel_size is None else plausible_pixel_size(pages.pixel_size, unset=None),
        flags=pages.flags + flags,
    )
    return header, is_half_width


def _is_half_width(path: Path, descriptor: int, pages: Pages) -> tuple[bool, tuple[str, ...]]:
    """Whether two counts share each byte, by what the file says, by its size, or by the bytes themselves."""
    layout = pages.layout
    if layout.dtype != "uint8" or layout.is_packed:
        return False, ()
    is_said = pages.is_said_packed or has_packed_size(layout.width, layout.height)
    packing = packing_of(_sample(descriptor, pages))
    if is_said and packing == "one count":
        raise not_packed(path, layout.width, layout.height)
    return is_said or packing == "two counts", () if is_said or packing != "two counts" else (BY_NUMBERS_ALONE,)


def _sample(descriptor: int, pages: Pages) -> NDArray[np.uint8]:
    """(n,) bytes from all over the movie; fewer where they cannot be decoded, which reading the frames will tell."""
    layout, pieces = pages.layout, []
    rows = min(layout.rows_per_strip, max(1, _SAMPLE_BYTES // layout.width))
    for page in sorted({0, len(pages.strips) // 2, len(pages.strips) - 1}):
        strips = pages.strips[page]
        # the last strip may have fewer rows
        n = max(1, len(strips.offsets) - 1)
        for strip in sorted({part * n // _SAMPLES_OF_A_PAGE for part in range(_SAMPLES_OF_A_PAGE)}):
            part = np.zeros((rows, layout.width), np.uint8)
            count = min(int(strips.counts[strip]), _MAX_GROWTH * part.size + _SLACK_BYTES)
            stored = read_up_to(descriptor, count, int(strips.offsets[strip]))
            if layout.compression == _NONE:
                usable = stored[: part.size]
                part.reshape(-1)[: len(usable)] = np.frombuffer(usable, np.uint8)
            else:
                # only the beginning is wanted, which decoders may call an error
                with suppress(ValueError, RuntimeError):
                    _DECODERS[layout.compression](stored, out=part.reshape(-1))
            pieces.append(np.cumsum(part, axis=1, dtype=np.uint8) if layout.predictor == 2 else part)
    return np.concatenate([piece.reshape(-1) for piece in pieces])


def _check_codec(path: Path, layout: Layout) -> None:
    if layout.compression != _NONE and layout.compression not in _DECODERS:
        raise MovieUnsupported(
            "has a compression that is not supported",
            where=path,
            expected="none, LZW, deflate, PackBits or zstd",
            found=f"TIFF compression {layout.compression}",
            hint="let the camera's program compress with LZW or ZIP",
        )
    # Differences between neighbouring integers are supported (2), the floating-point variant (3) is not.
    whole = layout.dtype != "float32" and not layout.is_packed
    if layout.predictor != 1 and not (layout.predictor == 2 and whole and layout.compression != _NONE):
        raise MovieUnsupported(
            "has a predictor that is not supported",
            where=path,
            found=f"TIFF predictor {layout.predictor}",
            hint="let the camera's program compress with LZW or ZIP, without a predictor",
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
            raise damaged(
                path,
                page,
                expected=f"{wanted[strip]} bytes in strip {strip + 1} of frame {page + 1}",
                found=f"{strips.counts[strip]} bytes as stored, {what} that",
            )


def _decode_page(
    descriptor: int, layout: Layout, strips: Strips, scratch: np.ndarray, frame: np.ndarray, *, is_half_width: bool
) -> None:
    """Decode one page into ``frame`` (h, w), flipped.

    Parameters
    ----------
    scratch : (rows per strip, stored numbers of a row) of the stored type and byte order; overwritten.
    is_half_width : two counts share each byte, the first in its low half, as IMOD and RELION read them.
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
        if is_half_width:
            part = np.stack([part & 15, part >> 4], axis=-1).reshape(rows, -1)
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
            return MovieNotReady(
                "is not complete", where=path, found=f"frame {page + 1} is not filled in yet", hint=CUT_SHORT
            )
    return damaged(path, page, found=f"frame {page + 1} cannot be decoded ({error})")
