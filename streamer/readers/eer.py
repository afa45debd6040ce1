"""EER movies: from events of single hardware frames to fractions on a pixel grid.

A BigTIFF with a page per hardware frame (*raw frame*), 250 to 320 a second, each a stream of run lengths with two
sub-pixel bits along each axis; pages that are pictures are ignored. Raw frames are summed into fractions, the frames of
everything that follows, on the grid of physical pixels or on one two or four times as fine. Where a fraction has to
have a certain size, as in RELION and Warp, raw frames that do not fill one are left out, and the header says how many.
Rows are not flipped, as in RELION, so that gains and maps agree with RELION's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from streamer.errors import MovieCorrupt, MovieNotReady, MovieUnsupported
from streamer.readers.eer_fractions import plan_fractions
from streamer.readers.eer_metadata import Metadata, parse_metadata
from streamer.readers.files import CUT_SHORT, changed, copy_again, damaged, opened, read_up_to
from streamer.readers.remarks import plausible_pixel_size
from streamer.readers.tiff_pages import Pages, read_pages
from streamer.records import MovieHeader

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamer.readers.tiff_tags import Strips
    from streamer.settings import EerSettings

# Compression -> bits of a run length, of the sub-pixel position along x and along y.
_BITS = {65000: (8, 2, 2), 65001: (7, 2, 2)}
_HOLE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EerFile:
    """An open EER movie, and how it is to be read."""

    path: Path
    descriptor: int
    header: MovieHeader
    strips: tuple[Strips, ...]
    """Per raw frame."""
    bits: tuple[int, int, int]
    """Of a run length, and of the sub-pixel position along x and y."""
    fractions: tuple[tuple[int, int], ...]
    """First raw frame of each fraction, and the one after its last."""
    upsampling: int
    flip_y: bool

    @property
    def dtype(self) -> type[np.uint8 | np.uint16]:
        """A pixel counts at most once in a raw frame: a byte suffices for fractions of up to 255."""
        return np.uint8 if max(stop - start for start, stop in self.fractions) <= 255 else np.uint16

    def decode(self, index: int, out: NDArray[np.uint8 | np.uint16]) -> None:
        """Count the events of fraction ``index`` into ``out`` (h, w), which is overwritten.

        Raises
        ------
        MovieCorrupt, MovieNotReady
            A raw frame cannot be decoded, or is not filled in yet; the message counts them from 1.
        """
        if self.upsampling == 2 and (out.shape[0] % 4 or out.shape[1] % 4):
            # the decoder supports this grid for multiples of four only, the finest one for every size
            fine = np.zeros((2 * out.shape[0], 2 * out.shape[1]), out.dtype)
            self._add_events(index, fine, finer=2)
            out[:] = fine.reshape(out.shape[0], 2, out.shape[1], 2).sum((1, 3), dtype=out.dtype)
        else:
            out[:] = 0
            self._add_events(index, out, finer=self.upsampling.bit_length() - 1)
        if self.flip_y:
            out[:] = out[::-1].copy()

    def _add_events(self, index: int, out: NDArray[np.uint8 | np.uint16], *, finer: int) -> None:
        for raw in range(*self.fractions[index]):
            stream = self._stream(raw)
            try:
                imagecodecs.eer_decode(stream, out.shape, *self.bits, superres=finer, out=out)
            except (ValueError, RuntimeError) as error:
                raise MovieCorrupt(
                    f"is damaged after raw frame {raw}" if raw else "is damaged at its first raw frame",
                    where=self.path,
                    found=f"raw frame {raw + 1} cannot be decoded ({error})",
                    hint=copy_again(self.path),
                ) from error

    def _stream(self, raw: int) -> bytes:
        """All strips of a raw frame, one after the other: they are one stream, as RELION reads them."""
        strips = self.strips[raw]
        stream = b"".join(
            read_up_to(self.descriptor, int(count), int(offset))
            for offset, count in zip(strips.offsets, strips.counts, strict=True)
        )
        # A stream ends in run lengths that reach the last pixel; zeros are events on neighbouring pixels.
        if not stream[-_HOLE_BYTES:].strip(b"\0"):
            raise MovieNotReady(
                "is not complete", where=self.path, found=f"raw frame {raw + 1} is not filled in yet", hint=CUT_SHORT
            )
        # the decoder wants whole words of 16 bits; half a word is too short for an event
        return stream + b"\0" if len(stream) % 2 else stream


def read_header(path: Path, settings: EerSettings) -> MovieHeader:
    """Read and check the structure of an EER movie; no event is decoded.

    Returns
    -------
    MovieHeader of the movie as fractions on the wanted grid, its pixel size that of this grid.

    Raises
    ------
    MovieNotReady
        Something is beyond the end of the file, or it has fewer raw frames than it says: still growing, or truncated.
    MovieCorrupt, MovieUnsupported, MovieMismatch
        It contradicts itself, or cannot be divided as the settings say.
    """
    with opened(path) as descriptor:
        return _file(path, descriptor, settings).header


def open_eer(path: Path, descriptor: int, header: MovieHeader, settings: EerSettings) -> EerFile:
    """Prepare an open file for decoding; one that no longer matches ``header`` is not ready."""
    file = _file(path, descriptor, settings)
    if file.header != header:
        raise changed(path)
    return file


def _file(path: Path, descriptor: int, settings: EerSettings) -> EerFile:
    pages = read_pages(path, descriptor)
    metadata = parse_metadata(path, pages.eer_metadata)
    n_raw = len(pages.strips)
    if metadata.n_frames is not None and n_raw < metadata.n_frames:
        raise MovieNotReady(
            "contains fewer raw frames than its metadata say",
            where=path,
            expected=str(metadata.n_frames),
            found=str(n_raw),
            hint=CUT_SHORT,
        )
    pixel_size = None if metadata.pixel_size is None else plausible_pixel_size(metadata.pixel_size, unset=None)
    dose = _dose_per_raw_frame(metadata, pixel_size, n_raw)
    fractions, doses = plan_fractions(path, n_raw, dose, settings)
    sizes = tuple(stop - start for start, stop in fractions)
    scale, bits = settings.upsampling, _bits(path, pages)
    in_fours = not ((pages.layout.height * scale) % 4 or (pages.layout.width * scale) % 4)
    if 2 ** min(bits[1:]) < (scale if in_fours else min(4, scale * scale)):
        raise MovieUnsupported(
            "does not resolve positions within a pixel finely enough for eer.upsampling",
            where=path,
            expected=f"{scale} steps",
            found=f"{bits[1]} and {bits[2]} bits",
            hint="set eer.upsampling = 1",
        )
    header = MovieHeader(
        format="eer",
        n_frames=len(fractions),
        height=pages.layout.height * scale,
        width=pages.layout.width * scale,
        dtype="uint8" if max(sizes) <= 255 else "uint16",
        pixel_size=None if pixel_size is None else pixel_size / scale,
        n_raw_frames=n_raw,
        n_raw_frames_left_out=n_raw - sum(sizes),
        fraction_sizes=None if settings.integration or min(sizes) == max(sizes) else sizes,
        proves_its_length=metadata.n_frames is not None,
        frame_doses=doses,
        upsampling=scale,
        gain_reference=metadata.gain_reference,
        # the camera's own count tells that no frame was taken for a preview
        flags=pages.flags if metadata.n_frames is None else (),
    )
    return EerFile(
        path=path,
        descriptor=descriptor,
        header=header,
        strips=pages.strips,
        bits=bits,
        fractions=fractions,
        upsampling=scale,
        flip_y=settings.flip_y,
    )


def _bits(path: Path, pages: Pages) -> tuple[int, int, int]:
    compression = pages.layout.compression
    bits = _BITS.get(compression) or pages.eer_bits
    if not (1 <= bits[0] <= 15 and 0 <= bits[1] <= 4 and 0 <= bits[2] <= 4 and sum(bits) <= 16):
        raise damaged(path, None, expected="events of at most 16 bits", found=f"events of {bits} bits")
    return bits


def _dose_per_raw_frame(metadata: Metadata, pixel_size: float | None, n_raw: int) -> float | None:
    """e⁻/Å² from the total dose in the metadata, which is per physical pixel."""
    if metadata.dose_per_pixel is None or pixel_size is None:
        return None
    return metadata.dose_per_pixel / pixel_size**2 / n_raw
