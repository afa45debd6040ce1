"""From frames to sums on the physical grid, in one pass; ``super_resolution`` uses the grid of half the pixel size.

A frame with shift s is moved by s: whole pixels in real space, edges filled with the frame's mean, the rest as a
phase; where the field bends, by interpolation (``warp``). The result is Σ w F with w the exposure filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import dose, fourier
from streamer.motion.warp import Warp

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamer.motion.track import LocalMotion


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSums:
    """Accumulated sums of a movie, separate for even and odd frames."""

    even: Tensor
    """Unnormalised Σ w F over frames 0, 2, 4, …: (h, w//2+1)."""
    odd: Tensor
    groups: Tensor
    """(n, h', w'//2+1) sums of every n-th frame, cropped to the training band; n may be 0."""
    shape: fourier.Shape
    exposures: Tensor
    """(t,) e⁻/Å² at the end of each frame."""


def sum_frames(
    frame: Callable[[int], Tensor],
    shifts: Tensor,
    exposures: Tensor,
    *,
    pixel_size: float,
    voltage_kv: float,
    local: LocalMotion | None = None,
    group_shape: fourier.Shape | None = None,
    n_groups: int = 0,
) -> FrameSums:
    """Accumulate all frames in one pass; memory does not grow with their number.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    shifts : (t, 2) float64 (y, x) px, moving each frame onto the reference.
    exposures : (t,) e⁻/Å² at the end of each frame, zeros for no weighting.
    pixel_size, voltage_kv : Å/px and kV.
    local : what is added to the shifts over the field.
    group_shape, n_groups : crop and number of interleaved group sums for training.
    """
    first = frame(0)
    height, width = first.shape
    device = first.device
    rate = dose.decay_rate(fourier.radius((height, width), device), pixel_size, voltage_kv)
    weighted = bool((exposures > 0).any())
    whole = torch.round(shifts)
    fractions = (shifts - whole).to(device)
    halves = torch.zeros((2, height, width // 2 + 1), dtype=torch.complex64, device=device)
    small = group_shape or (2, 2)
    groups = torch.zeros((n_groups, small[0], small[1] // 2 + 1), dtype=torch.complex64, device=device)
    warp = None if local is None else Warp(shifts, local, device)
    for t in range(len(shifts)):
        image = first if t == 0 else frame(t)
        if warp is not None:
            spectrum = torch.fft.rfft2(warp(image, t))
        else:
            spectrum = torch.fft.rfft2(_move_whole_pixels(image, int(whole[t, 0]), int(whole[t, 1])))
            spectrum *= fourier.shift_ramp((height, width), fractions[t])
        if weighted:
            spectrum *= torch.exp(-float(exposures[t]) * rate)
        halves[t % 2] += spectrum
        if n_groups:
            groups[t % n_groups] += fourier.resize(spectrum, (height, width), small)
    if warp is not None:
        rows, columns = warp.whitening()
        halves *= rows[:, None] * columns
    return FrameSums(
        even=halves[0],
        odd=halves[1],
        groups=groups,
        shape=(height, width),
        exposures=exposures,
    )


def _move_whole_pixels(frame: Tensor, y: int, x: int) -> Tensor:
    """Move an image by whole px towards larger indices; pixels that enter at the edge get its mean."""
    if y == 0 and x == 0:
        return frame
    height, width = frame.shape
    moved = torch.full_like(frame, float(frame.mean()))
    if abs(y) < height and abs(x) < width:
        moved[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = frame[
            max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)
        ]
    return moved
