"""Appearance of a micrograph, in seventeen numbers that distinguish one specimen from another.

Particles make a micrograph uneven in their own way. At six sizes: how strong it is at one size over the next, how
lopsided its grey values are and how sparse. These depend more on what is in the ice than on the stage position, the
defocus or the thickness of the ice. No network is involved, so they mean the same whichever version is in use.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from streamer import fourier
from streamer.band import band_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.records import HalfSums

SIZES = (16.0, 24.0, 36.0, 54.0, 80.0, 120.0)
"""Å."""
LENGTH = 3 * len(SIZES) - 1
_RATIO = 1.5
_FINEST = 10.0
"""Å; nothing finer passes at any size."""


_NORMAL_SPARSENESS = math.log(math.sqrt(2.0 / math.pi))
_CHANCE = (1.75, 0.21)
"""Standard deviation by chance of lopsidedness and sparseness, over size and field's side: simulated empty movies."""
_FLOOR = (0.03, 0.003)
"""Deviations that say nothing on however large a field: counts are not quite normally distributed."""


def structure(found: Sequence[float], shape: fourier.Shape, pixel_size: float) -> float:
    """How far a texture's lopsidedness and sparseness are from those of normally distributed grey values.

    Root mean square of the deviations at all sizes but the finest, where electrons are too few, each over its standard
    deviation by chance. Noise, ice and carbon give 0.2 to 1 whatever the field; particles mostly 3 to 50.
    """
    side = math.sqrt(shape[0] * shape[1]) * pixel_size
    parts = (found[-2 * len(SIZES) : -len(SIZES)], [value - _NORMAL_SPARSENESS for value in found[-len(SIZES) :]])
    squares = [
        (value / math.hypot(chance * size / side, floor)) ** 2
        for values, chance, floor in zip(parts, _CHANCE, _FLOOR, strict=True)
        for value, size in list(zip(values, SIZES, strict=True))[1:]
    ]
    return math.sqrt(sum(squares) / len(squares))


def texture(sums: HalfSums) -> tuple[float, ...] | None:
    """Texture of a plain micrograph, (17,); None where the pixels are too coarse for it, or the image is empty.

    At size d the filter is exp(−k²d²) − exp(−1.5² k²d²). With z the image there, at mean 0 and variance 1, and s its
    standard deviation before: ln(s of a size over s of the next), the mean of z³, ln of the mean of z's absolute value.
    """
    if 2.0 * sums.pixel_size > _FINEST:
        return None
    band = band_of(sums.shape, sums.pixel_size, _FINEST, 1e4)
    micrograph = band.crop(sums.total)
    frequency = fourier.radius(band.small, micrograph.device) / band.band_pixel_size
    spreads, lopsided, sparse = [], [], []
    for size in SIZES:
        passed = torch.exp(-((frequency * size) ** 2)) - torch.exp(-((frequency * size * _RATIO) ** 2))
        image = fourier.to_image(micrograph * passed, band.small).double()
        image = image - image.mean()
        spread = float(image.square().mean().sqrt())
        if not spread > 0.0:
            return None
        spreads.append(spread)
        lopsided.append(float(image.pow(3).mean()) / spread**3)
        sparse.append(math.log(float(image.abs().mean()) / spread))
    ratios = [math.log(one / other) for one, other in zip(spreads, spreads[1:], strict=False)]
    return tuple(round(value, 5) for value in (*ratios, *lopsided, *sparse))
