"""PNG pictures for people: from an image to the bytes of a small 8-bit grey picture."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np

# The darkest and the brightest half per cent may saturate: so that dirt does not set the contrast.
_PERCENTILES = (0.5, 99.5)
_PNG_HEADER_BYTES = 33
"""Signature and the IHDR chunk."""
_TILE, _TILES = 256, 8
"""Tiles of the power spectrum: their side in px, and their maximum number along an axis."""
_FINEST = 4.0
"""Å; Thon rings are not seen beyond it, and would be small in the middle of noise."""


def encode_png(image: np.ndarray, *, longer_side_px: int, flip: bool = True, label: str = "") -> bytes:
    """Shrink an image and encode it as PNG.

    Parameters
    ----------
    image : (h, w) real numbers, finite.
    longer_side_px : of the picture; a smaller image keeps its size.
    flip : row 0 is the bottom row, as in MRC; false when it is the top row.
    label : what picture viewers show as its description.

    Returns
    -------
    The bytes of the file. An image without contrast becomes grey.

    Raises
    ------
    ValueError
        The image is not 2-D, is empty, or contains numbers that are not finite.
    """
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"expected an (h, w) image, got {image.shape}")
    small = _shrink(image, longer_side_px)
    if not np.isfinite(small).all():
        raise ValueError("expected finite numbers")
    grey = _grey(small)
    picture = bytes(imagecodecs.png_encode(np.ascontiguousarray(grey[::-1] if flip else grey)))
    return _described(picture, label) if label else picture


def _described(picture: bytes, label: str) -> bytes:
    """A PNG with one more chunk of international text after its header (PNG specification, 11.3.4.5)."""
    content = b"iTXt" + b"Description\0\0\0\0\0" + label.encode()
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return picture[:_PNG_HEADER_BYTES] + chunk + picture[_PNG_HEADER_BYTES:]


def encode_power_spectrum(image: np.ndarray, *, pixel_size: float) -> bytes:
    """Encode the logarithm of an image's power spectrum, frequency 0 in the centre, as PNG of at most 512 px.

    Parameters
    ----------
    image : (h, w) real numbers, finite. Overlapping tiles are averaged, so that Thon rings stand out of the noise.
    pixel_size : Å/px; the picture ends at 4 Å, or at the Nyquist frequency.
    """
    if image.ndim != 2 or min(image.shape) < 2:
        raise ValueError(f"expected an (h, w) image, got {image.shape}")
    side = min(_TILE, *image.shape)
    padded = 2 * side
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    power = np.zeros((padded, side + 1))
    tops, lefts = (_tile_starts(length, side) for length in image.shape)
    for top in tops:
        for left in lefts:
            tile = image[top : top + side, left : left + side].astype(np.float32)
            power += np.abs(np.fft.rfft2((tile - tile.mean()) * window, s=(padded, padded))) ** 2
    # The other half of the plane is the point reflection of this one: P(-k) = P(k).
    mirrored = np.roll(power[::-1], 1, axis=0)[:, side - 1 : 0 : -1]
    full = np.fft.fftshift(np.concatenate([power, mirrored], axis=1))
    reach = max(1, round(padded * min(0.5, pixel_size / _FINEST)))
    shown = slice(side - reach, side + reach)
    return encode_png(np.log(full[shown, shown] + np.finfo(np.float64).tiny), longer_side_px=padded)


def _tile_starts(length: int, side: int) -> np.ndarray:
    """Where tiles that overlap by half begin, or evenly spread ones where that would be too many."""
    return np.linspace(0, length - side, min(_TILES, max(1, 2 * length // side - 1))).astype(np.int64)


def _shrink(image: np.ndarray, longer_side_px: int) -> np.ndarray:
    """Average blocks of pixels, as equal as whole pixels allow; float64."""
    longer = max(image.shape)
    if longer <= longer_side_px:
        return image.astype(np.float64)
    small = image
    for axis, length in enumerate(image.shape):
        n = max(1, round(length * longer_side_px / longer))
        edges = np.arange(n) * length // n
        sizes = np.diff(edges, append=length)
        small = np.add.reduceat(small, edges, axis=axis, dtype=np.float64) / np.expand_dims(sizes, 1 - axis)
    return small


def _grey(small: np.ndarray) -> np.ndarray:
    low, high = np.percentile(small, _PERCENTILES)
    if not high > low:
        low, high = small.min(), small.max()
    if not high > low:
        return np.full(small.shape, 128, np.uint8)
    grey: np.ndarray = np.rint(np.clip((small - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return grey
