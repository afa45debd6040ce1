"""A gain reference fitted to a movie's frames: turned, flipped, scaled to their grid, and in the right sense.

Contract: rotate by quarter turns counter-clockwise as the image is shown with row 0 at the bottom, then flip. That is
MotionCor's -RotGain and -FlipGain and RELION's --gain_rot and --gain_flip, checked against RELION 3.1 for all twelve.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.errors import MovieMismatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.records import Gain, MovieHeader
    from streamer.settings import GainSettings

ORIENTATIONS = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (0, 2), (1, 2))
"""(rotate, flip): each of the eight ways once."""


def turned(values: NDArray[np.float32], rotate: int, flip: int) -> NDArray[np.float32]:
    """Rotate (h, w) by quarter turns, then flip it: 1 upside down, 2 left to right."""
    found = np.rot90(values, -rotate)
    if flip:
        found = found[::-1] if flip == 1 else found[:, ::-1]
    return np.ascontiguousarray(found)


def unturned(values: NDArray[np.float32], rotate: int, flip: int) -> NDArray[np.float32]:
    """Undo ``turned``."""
    return turned(turned(values, 0, flip), -rotate, 0)


def divides(gain: Gain, header: MovieHeader, settings: GainSettings) -> bool:
    """Whether a reference is an image of the beam, by which frames are divided."""
    if settings.sense == "auto":
        return header.format == "eer" and not gain.is_multiplicative
    return settings.sense == "divide"


def fitted(gain: Gain, header: MovieHeader, settings: GainSettings, movie: str) -> Gain:
    """Return the gain as it multiplies the frames of one movie.

    Physical pixels are repeated for frames on a grid twice or four times as fine; a super-resolution reference is
    averaged for frames of physical pixels, and is a defect where any of the pixels averaged is one. 0 stays a defect.

    Raises
    ------
    MovieMismatch
        The sizes do not match by a factor of 1, 2 or 4; the message says if they would when turned.
    """
    values = turned(gain.values, settings.rotate, settings.flip)
    shape = (header.height, header.width)
    scaled = _scaled(values, shape)
    if scaled is None:
        would_fit = _scaled(values.T, shape) is not None
        raise MovieMismatch(
            "the gain reference and the frames differ in size",
            where=movie,
            expected=f"{shape[0]} × {shape[1]} px",
            found=f"{values.shape[0]} × {values.shape[1]} px in {gain.path}",
            hint="it fits when turned: set gain.rotate = 1 or 3"
            if would_fit
            else "set movie.gain to the reference of this camera mode, or record movies in the reference's mode",
        )
    if divides(gain, header, settings):
        good = scaled > 0
        scaled = np.divide(scaled[good].mean(), scaled, out=np.zeros_like(scaled), where=good)
    return replace(gain, values=scaled)


def _scaled(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """The same on a grid of (h, w); None where no factor fits."""
    if values.shape == shape:
        return values
    for factor in (2, 4):
        if (values.shape[0] * factor, values.shape[1] * factor) == shape:
            return values.repeat(factor, axis=0).repeat(factor, axis=1)
        if values.shape == (shape[0] * factor, shape[1] * factor):
            blocks = values.reshape(shape[0], factor, shape[1], factor)
            return np.where((blocks == 0).any((1, 3)), np.float32(0.0), blocks.mean((1, 3)))
    return None
