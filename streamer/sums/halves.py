"""Normalised halves and training groups from accumulated sums.

The micrograph is Σ w F / √Σ w² over all frames, so that its noise stays white; each half is divided by the *total's*
root, so that the halves add up to the micrograph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from streamer import dose, fourier
from streamer.errors import StageError
from streamer.records import GroupSums, HalfSums

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.sums.frame_sum import FrameSums


def half_sums(fused: FrameSums, pixel_size: float, voltage_kv: float) -> HalfSums:
    """Even and odd sums of the frames fused on the physical grid."""
    device = fused.even.device
    exposures = fused.exposures
    plane = dose.decay_rate(fourier.radius(fused.shape, device), pixel_size, voltage_kv)
    norm = dose.sum_of_squares(exposures, plane).rsqrt()
    return HalfSums(
        even=fused.even * norm,
        odd=fused.odd * norm,
        even_share=even_share(exposures, fused.shape, pixel_size, voltage_kv, device),
        shape=fused.shape,
        pixel_size=pixel_size,
    )


def finite(sums: HalfSums) -> HalfSums:
    """Return the sums; raise StageError if they are not finite."""
    for half in (sums.even, sums.odd):
        if not bool(torch.isfinite(half).all()):
            raise StageError(
                "the aligned sum contains values that are not finite",
                where="fuse",
                hint="look at the movie and at the gain reference, for example with 3dmod: one of them is damaged",
            )
    return sums


def even_share(
    exposures: Tensor, shape: fourier.Shape, pixel_size: float, voltage_kv: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Σw² of the even frames over that of all, (rings,) float64."""
    rings = dose.decay_rate(fourier.ring_frequencies(shape, device).float(), pixel_size, voltage_kv)
    return (dose.sum_of_squares(exposures[0::2], rings) / dose.sum_of_squares(exposures, rings)).to(torch.float64)


def group_count(n_frames: int, most: int = 10) -> int:
    """Number of interleaved groups: even, so that each group contains only even or only odd frames; 0 if too few."""
    return min(most, n_frames) // 2 * 2 if n_frames >= 4 else 0


def group_sums(fused: FrameSums, small: fourier.Shape, pixel_size: float, voltage_kv: float) -> GroupSums | None:
    """Every n-th frame's sum, cropped to the training band, as it is kept for the session model."""
    n = len(fused.groups)
    if n == 0:
        return None
    images = fourier.to_image(fused.groups, small)
    images = images - images.mean((1, 2), keepdim=True)
    # any camera's counts fit into float16; the scale means nothing here
    images = images / images.std().clamp(min=1e-30)
    exposures = tuple(tuple(float(e) for e in fused.exposures[start::n]) for start in range(n))
    return GroupSums(
        groups=images.to(torch.float16).cpu(),
        exposures=exposures,
        shape=fused.shape,
        pixel_size=pixel_size,
        voltage_kv=voltage_kv,
    )
