"""Averages of a movie's early and late frames, as the published cryo-ZSSR (Huang et al. 2023, section 3) uses them.

All frames are aligned with our own shifts, including local ones, without dose weights. The paper aligns them to several
reference frames in turn; but an average that is aligned to one frame is the average aligned to any other, moved as a
whole, so each set of frames is summed once and moved afterwards (``views``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import fourier
from streamer.errors import StageError
from streamer.sums import frame_sum

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.motion.track import Motion

_SEED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Averages:
    """Means of a movie's frames, mean 0, on the grid of its first frame."""

    early: Tensor
    """(h, w) float32: first half of the frames, less damaged."""
    late: Tensor
    """(h, w) float32: the others."""
    early_share: float
    """Share of the frames that are in ``early``."""
    offsets: Tensor
    """(k, 2) float64 (y, x) px, within ±½: positions of the images from ``views``."""
    scale: float
    """Standard deviation of the early average: what a network divides by."""

    @property
    def whole(self) -> Tensor:
        """(h, w) float32: mean of all frames."""
        return torch.lerp(self.late, self.early, self.early_share)

    def window(self, rows: slice, columns: slice) -> Averages:
        """A part of the field, at the same scale."""
        return replace(self, early=self.early[rows, columns], late=self.late[rows, columns])


def average(frame: Callable[[int], Tensor], motion: Motion, chosen: Tensor | None = None, *, k: int = 4) -> Averages:
    """Align and average.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    motion : global and local shifts.
    chosen : (n,) int64 frames to use, ascending; None: all. Frames that contain nothing or no numbers are left out.
    k : number of reference frames. They are drawn at random from all frames, as the paper says, always the same ones.

    Raises
    ------
    StageError
        If there are fewer than two frames that contain something: early and late ones are needed.
    """
    everything = torch.arange(len(motion.shifts)) if chosen is None else chosen
    held = torch.tensor([t for t in everything.tolist() if _holds_something(frame(t))], dtype=torch.int64)
    if len(held) < 2:
        raise StageError(
            "too few frames",
            where="averages",
            expected="2 or more with numbers",
            found=str(len(held)),
            hint='take movies with more frames, or method = "fusion"',
        )
    half = len(held) // 2
    sums = [_sum(frame, motion, part) for part in (held[:half], held[half:])]
    early, late = sums[0] / half, sums[1] / (len(held) - half)
    generator = torch.Generator().manual_seed(_SEED)
    references = motion.shifts[torch.randint(len(motion.shifts), (k,), generator=generator)]
    return Averages(
        early=early,
        late=late,
        early_share=half / len(held),
        offsets=references.round() - references,
        scale=float(early.std()),
    )


def views(image: Tensor, offsets: Tensor) -> Tensor:
    """The average aligned to each reference frame, (k, h, w).

    Whole pixels of drift are left out: the network's field of view is too narrow to learn a drift of many pixels, and
    the position relative to the target carries no information.
    """
    shape, spectrum = (image.shape[0], image.shape[1]), torch.fft.rfft2(image)
    moved = torch.stack([spectrum * fourier.shift_ramp(shape, offset.to(image.device)) for offset in offsets])
    return fourier.to_image(moved, shape)


def _sum(frame: Callable[[int], Tensor], motion: Motion, chosen: Tensor) -> Tensor:
    """Aligned sum of some frames, (h, w) with mean 0."""
    bent = motion.local
    local = None if bent is None else replace(bent, coefficients=bent.coefficients[chosen])
    fused = frame_sum.sum_frames(
        lambda i: frame(int(chosen[i])),
        motion.shifts[chosen],
        torch.zeros(len(chosen)),
        pixel_size=1.0,
        voltage_kv=300.0,
        local=local,
    )
    image = fourier.to_image(fused.even + fused.odd, fused.shape)
    return image - image.mean()


def _holds_something(frame: Tensor) -> bool:
    low, high = frame.aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high)) and bool(high > low)
