"""Whether the detector's own pattern is in frames, corrected by a gain reference or not.

It stays where it is while the specimen moves, it is in early and late frames alike, and it differs from pixel to pixel:
so it is as strong in the corners of the Fourier plane, beyond the Nyquist frequency of the axes, as anywhere else. A
specimen has next to nothing there: optics, radiation damage and the detector's blur have taken it. The covariance of
early and late frames in the corners, none of them aligned, is therefore the power of the pattern. Neighbouring frames
may share noise besides, by afterglow or because a pixel cannot count twice at a time: so a gap parts the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer import fourier
from streamer.detector.background import binned
from streamer.detector.local_mean import clipped, relative

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.detector.gain_check import FittedGain
    from streamer.frame_stack import FrameSource
    from streamer.records import Gain, GainFit

_SURE = 6.0
"""Standard errors by which the pattern's power must exceed what a specimen may leave in the corners."""
_SPECIMEN = 0.005
"""Relative standard deviation per pixel that passes for a specimen's."""
_OUTLIER = 5.0
"""Standard deviations beyond which a pixel is a defect, and not taken for pattern."""
_SIDE = 2048
"""Height and width in px, around the centre, that are enough to see any pattern, and take a quarter of the time."""
_GAP = 6
"""Frames from which on the one on each side of the middle is left out."""
_SPARSE = 0.4
"""Share of pixels of a half without a count, as at 0.9 electrons per pixel, beyond which nothing can be told."""
_NOTHING = 0.01
"""Below it no figure is raised noticeably."""
_DARK, _NEAR, _LEAST_LIT = 0.4, 17, 0.25
"""Share of the level of the bright parts from which a place is dark; px around it that are averaged; and the share of
the image that has to be lit."""
_STAYS, _SIDE_AFTER = 0.015, 1024
"""Relative standard deviation per pixel that passes for the noise of a recorded gain reference, and px that are enough
to see more than that."""
_CERTAIN = 5.0
"""Standard errors of the fit that are given to the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPattern:
    """How much each pixel's sensitivity differs from its neighbours', as the frames themselves show it."""

    power: float
    """Relative variance; scatters around 0 where there is none."""
    error: float
    """Its standard error."""

    @property
    def is_seen(self) -> bool:
        """Whether the pattern is there beyond doubt."""
        return self.power - _SURE * self.error > _SPECIMEN**2

    @property
    def is_excluded(self) -> bool:
        """Whether there is none that would matter."""
        return self.power + 3.0 * self.error < _NOTHING**2

    @property
    def spread(self) -> float:
        """Relative standard deviation from pixel to pixel."""
        return float(max(self.power, 0.0) ** 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftPattern:
    """What stays with the detector after correction, and what it does to the figures."""

    seen: float | None = None
    """Relative standard deviation from pixel to pixel; None: none is seen."""
    may_raise: bool = False
    """Whether it may have raised what the halves of the movie share: SSNR, FRC, resolution."""
    gain: str | None = None
    """Name of a recorded reference that was applied."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What a user should know about it."""
        if self.seen is None:
            return ()
        words, cure = f"pattern: the detector's own is in the frames, {self.seen:.1%} from pixel to pixel", ""
        if self.gain is not None:
            words, cure = f"{words}, although {self.gain} is applied", "; is it of this camera, mode and week?"
        return (f"{words}: it raises SSNR, FRC and resolution{cure}",)


def what_is_left(
    counts: FrameSource, total: NDArray[np.float32], fitted: FittedGain, upsampling: int = 1, *, said_corrected: bool
) -> LeftPattern:
    """Look for a fixed pattern in frames as they are after correction.

    A reference without a pattern of its own corrects nothing; one made from movies may leave a part, as one does that
    was recorded long ago.

    Parameters
    ----------
    counts : (t, h, w) as stored. total : (h, w), their sum. Whole numbers are counts that nobody has corrected yet, as
        far as anybody can see; fractions have been corrected.
    upsampling : how many px of the grid one of the detector's is along each axis.
    said_corrected : the settings say that the frames are.
    """
    if fitted.gain is not None and fitted.fit is not None and not fitted.gain.is_made:
        return _after(fitted.gain, fitted.fit, counts, total, upsampling)
    pattern = measure(counts, total, None if fitted.gain is None else fitted.gain.values, upsampling)
    if pattern is not None and pattern.is_seen:
        return LeftPattern(seen=pattern.spread, may_raise=True)
    is_flat = fitted.gain is not None and not fitted.gain.is_made
    if said_corrected or is_flat or (pattern is not None and pattern.is_excluded):
        return LeftPattern()
    return LeftPattern(may_raise=bool((total == np.rint(total)).all()))


def _after(gain: Gain, fit: GainFit, counts: FrameSource, total: NDArray[np.float32], upsampling: int) -> LeftPattern:
    """What a recorded reference leaves: of its own pattern, by the fit, and of any other."""
    found = measure(counts, total, gain.values, upsampling, side=_SIDE_AFTER)
    if found is not None and found.power - _SURE * found.error > _STAYS**2:
        return LeftPattern(seen=found.spread, may_raise=True, gain=Path(gain.path).name)
    if (abs(fit.residual) - _CERTAIN * fit.error) * fit.spread > _STAYS:
        return LeftPattern(seen=abs(fit.residual) * fit.spread, may_raise=True, gain=Path(gain.path).name)
    return LeftPattern()


def measure(
    counts: FrameSource,
    total: NDArray[np.float32],
    gain: NDArray[np.float32] | None = None,
    upsampling: int = 1,
    *,
    side: int = _SIDE,
) -> FixedPattern | None:
    """Measure the pattern in a movie's frames.

    Parameters
    ----------
    counts : (t, h, w) as stored. total : (h, w), their sum.
    gain : (h, w) that multiplies them, 0 at defects; None: as they are stored.
    upsampling : how many px of the grid one of the detector's, to which the pattern belongs, is along each axis.
    side : height and width, in px of the detector around the centre, that are looked at.

    Returns
    -------
    The pattern; None where a single frame, or too few counts, leave nothing to compare.
    """
    if len(counts) < 2:
        return None
    side *= upsampling
    starts = [max(0, (size - side) // 2) // upsampling * upsampling for size in total.shape]
    window = tuple(slice(start, start + side) for start in starts)

    def corrected(image: NDArray[np.float32]) -> NDArray[np.float32]:
        values = image if gain is None else image * gain[window]
        return values if upsampling == 1 else binned(values, upsampling)

    early, middle = np.zeros((2, *total[window].shape), np.float32)
    gap = int(len(counts) >= _GAP)
    for index in range(len(counts) // 2 + gap):
        (early if index < len(counts) // 2 - gap else middle)[:] += counts[index][window]
    halves = [corrected(half) for half in (early, total[window] - early - middle)]
    whole = corrected(total[window])
    lit, seen = _lit(whole), relative(whole)
    if float(lit.float().mean()) < _LEAST_LIT:
        return None
    odd_ones = (seen.abs() > _OUTLIER * seen[lit].std()).numpy()
    if gain is not None:
        odd_ones |= corrected(np.ones_like(early)) == 0
    halves = [np.where(odd_ones, half.mean(), half) for half in halves]
    if any(float((half[lit.numpy()] == 0).mean()) > _SPARSE for half in halves):
        return None
    shape = (int(whole.shape[0]), int(whole.shape[1]))
    first, second = (torch.fft.rfft2(clipped(relative(half) * lit)) for half in halves)
    corner = fourier.radius(shape, first.device) > 0.5
    shared = (first[corner] * second[corner].conj()).real.double() / float(lit.sum())
    if shared.numel() < 2:
        return None
    return FixedPattern(power=float(shared.mean()), error=float(shared.std()) / shared.numel() ** 0.5)


def _lit(image: NDArray[np.float32]) -> torch.Tensor:
    """(h, w), false where a grid bar or the edge of the beam leaves too few counts to compare."""
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    # a mean over squares is one over rows of a mean over columns
    for window in ((1, _NEAR), (_NEAR, 1)):
        margin = (window[0] // 2, window[1] // 2)
        pixels = torch.nn.functional.avg_pool2d(pixels, window, 1, margin, count_include_pad=False)
    around = pixels[0, 0]
    return around > _DARK * around.flatten()[:: max(1, around.numel() // 100_000)].quantile(0.9)
