"""Appearance of a micrograph, in seventeen numbers that distinguish one specimen from another.

Particles make a micrograph uneven in their own way. At six sizes: how strong it is at one size over the next, how
lopsided its grey values are and how sparse. These depend more on what is in the ice than on the stage position, the
defocus or the thickness of the ice. No network is involved, so they mean the same whichever version is in use.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import fourier
from streamer.band import band_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.field_mask import FieldMask
    from streamer.records import HalfSums

SIZES = (16.0, 24.0, 36.0, 54.0, 80.0, 120.0)
"""Å."""
LENGTH = 3 * len(SIZES) - 1
_RATIO = 1.5
_FINEST = 10.0
"""Å; nothing finer passes at any size."""


_LEAST_USABLE = 0.3
"""Share of a field below which nothing is said about it."""
_MARGIN, _REACH = 15.0, 0.25
"""Around what is masked, Å: to where edges and fringes show, and what a filter carries, over its size."""
_NORMAL_SPARSENESS = math.log(math.sqrt(2.0 / math.pi))
_CHANCE = (1.75, 0.21)
"""Standard deviation by chance of lopsidedness and sparseness, over size and field's side: simulated empty movies."""
_FLOOR = (0.03, 0.003)
"""Deviations that say nothing on however large a field: counts are not quite normally distributed."""


def structure(found: Sequence[float], shape: fourier.Shape, pixel_size: float, *, usable: float = 1.0) -> float:
    """How far a texture's lopsidedness and sparseness are from those of normally distributed grey values.

    Root mean square of the deviations at all sizes but the finest, where electrons are too few, each over its standard
    deviation by chance. Noise, ice and carbon give 0.2 to 1 whatever the field; particles mostly 3 to 50.

    Parameters
    ----------
    usable : share of the field that the texture is of.
    """
    side = math.sqrt(shape[0] * shape[1] * usable) * pixel_size
    parts = (found[-2 * len(SIZES) : -len(SIZES)], [value - _NORMAL_SPARSENESS for value in found[-len(SIZES) :]])
    squares = [
        (value / math.hypot(chance * size / side, floor)) ** 2
        for values, chance, floor in zip(parts, _CHANCE, _FLOOR, strict=True)
        for value, size in list(zip(values, SIZES, strict=True))[1:]
    ]
    return math.sqrt(sum(squares) / len(squares))


def texture(sums: HalfSums, field: FieldMask | None = None) -> tuple[float, ...] | None:
    """Texture of a plain micrograph outside of what is not specimen, (17,).

    At size d the filter is exp(−k²d²) − exp(−1.5² k²d²). With z the image there, at mean 0 and variance 1, and s its
    standard deviation before: ln(s of a size over s of the next), the mean of z³, ln of the mean of z's absolute value.
    What is masked is levelled to the mean of the rest before, and counts for nothing; near it a place counts less.

    Parameters
    ----------
    field : what is not specimen; None: everything is.

    Returns
    -------
    None where the pixels are too coarse for it, the image is empty, or hardly any of it is specimen.
    """
    if 2.0 * sums.pixel_size > _FINEST or (field is not None and field.usable < _LEAST_USABLE):
        return None
    band = band_of(sums.shape, sums.pixel_size, _FINEST, 1e4)
    micrograph = band.crop(sums.total)
    clear = None if field is None or field.is_clean else field
    if clear is not None:
        micrograph = _levelled(micrograph, clear, band.small)
    frequency = fourier.radius(band.small, micrograph.device) / band.band_pixel_size
    spreads, lopsided, sparse = [], [], []
    for size in SIZES:
        passed = torch.exp(-((frequency * size) ** 2)) - torch.exp(-((frequency * size * _RATIO) ** 2))
        image = fourier.to_image(micrograph * passed, band.small).double()
        counts = None if clear is None else clear.weight(band.small, _MARGIN + _REACH * size, size).to(image)
        image = image - _mean(image, counts)
        spread = float(_mean(image.square(), counts).sqrt())
        if not spread > 0.0:
            return None
        spreads.append(spread)
        lopsided.append(float(_mean(image.pow(3), counts)) / spread**3)
        sparse.append(math.log(float(_mean(image.abs(), counts)) / spread))
    ratios = [math.log(one / other) for one, other in zip(spreads, spreads[1:], strict=False)]
    return tuple(round(value, 5) for value in (*ratios, *lopsided, *sparse))


def _levelled(micrograph: Tensor, field: FieldMask, shape: fourier.Shape) -> Tensor:
    """Spectrum of a micrograph whose masked places have the mean of the others."""
    image = fourier.to_image(micrograph, shape)
    counts = field.weight(shape, _MARGIN, _MARGIN).to(image)
    mean = _mean(image, counts)
    levelled: Tensor = torch.fft.rfft2(mean + counts * (image - mean))
    return levelled


def _mean(image: Tensor, counts: Tensor | None) -> Tensor:
    """Mean over the field, each place by how much it counts; NaN where none does."""
    return image.mean() if counts is None else (image * counts).sum() / counts.sum()
