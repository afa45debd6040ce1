"""Whether the detector's fixed pattern, not the specimen, is what frames that do not move agree about.

What stays with the detector is the same in all frames. Where it is strong, frames agree best unmoved, and do so with
great certainty. Two things tell it from a specimen that stands still. A pattern of single pixels, as of a gain that
does not fit, is as strong in the corners of Fourier space, beyond Nyquist of the axes, as anywhere else; a specimen has
next to nothing there: optics and pixels have blurred it. And a defect is in one place, a specimen all over the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from streamer.motion.patches import PATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_STILL = 1.0
"""px; a track that stays within is suspected."""
_BAND, _CORNERS = (0.03, 0.37), 0.52
"""cycles/px: what alignment uses, and where hardly anything of a specimen is."""
_SURE = 8.0
"""Standard deviations by which the frames must agree in the corners."""
_WHITE, _IN_ONE_PLACE, _FEWEST = 0.5, 0.7, 9
"""Share of what frames agree about, at all frequencies, that the corners explain; the same of a single patch, of at
least so many."""


def is_still(shifts: Tensor) -> bool:
    """Whether a track (t, 2) px stays where it is."""
    return float((shifts.amax(0) - shifts.amin(0)).max()) < _STILL


def rules(frame: Callable[[int], Tensor], n_frames: int) -> bool:
    """Whether frames that do not move agree about the detector rather than about a specimen.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    """
    even, odd = (sum((frame(i) for i in range(first + 2, n_frames, 2)), frame(first)) for first in (0, 1))
    side = min(PATCH, *even.shape)
    one, other = (torch.fft.rfft2(_patches(half, side)) for half in (even, odd))
    rows = torch.fft.fftfreq(side, device=even.device)[:, None]
    columns = torch.fft.rfftfreq(side, device=even.device)[None, :]
    radius = torch.sqrt(rows**2 + columns**2)
    off_axes = (rows != 0) & (columns != 0)
    shared = (one * other.conj()).real
    corners = shared[:, off_axes & (radius > _CORNERS)].double()
    level, error = corners.mean(), corners.std() / max(corners.numel(), 1) ** 0.5
    # as the fit counts them: information about a shift grows with the square of the frequency
    weight = (radius**2 * (off_axes & (radius > _BAND[0]) & (radius < _BAND[1]))).double()
    known = (shared.double() * weight).sum((1, 2))
    whole = known.sum()
    if float(whole) <= 0.0:
        return False
    is_white = float(level) > _SURE * float(error) and float(level * weight.sum() * len(known)) > _WHITE * float(whole)
    is_local = len(known) >= _FEWEST and float(known.max()) > _IN_ONE_PLACE * float(whole)
    return is_white or is_local


def _patches(image: Tensor, side: int) -> Tensor:
    """(patches, side, side) of (h, w), abutting, in the middle, each less its mean."""
    number = [size // side for size in image.shape]
    top, left = ((size - n * side) // 2 for size, n in zip(image.shape, number, strict=True))
    window = image[top : top + number[0] * side, left : left + number[1] * side]
    patches = window.reshape(number[0], side, number[1], side).permute(0, 2, 1, 3).reshape(-1, side, side)
    return patches - patches.mean((1, 2), keepdim=True)
