"""The band that a network works in: cropped, whitened, and back.

A network sees a micrograph Fourier-cropped to its band, divided by the noise amplitude of each ring, so that noise is
white with variance 1 per pixel. The corrections it proposes return to the whole field through the same geometry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamer import fourier

MULTIPLE = 8
"""Sizes are multiples of this, so that networks can halve them three times."""
_UPPER_EDGE = 0.96
"""Share of the band's Nyquist above which nothing is corrected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Geometry of one micrograph's band."""

    shape: fourier.Shape
    """Whole field, px."""
    small: fourier.Shape
    """Cropped field, px of the band."""
    pixel_size: float
    """Å/px of the whole field."""
    low: float
    """Coarse end in Å: slower variation is ice and illumination, and is left to the Wiener filter."""

    @property
    def band_pixel_size(self) -> float:
        """Å per px of the cropped field."""
        area = (self.shape[0] * self.shape[1]) / (self.small[0] * self.small[1])
        return self.pixel_size * math.sqrt(area)

    def crop(self, spectrum: Tensor) -> Tensor:
        """Whole to cropped half-plane, (…, h', w'//2+1); pixel values keep their scale."""
        return fourier.resize(spectrum, self.shape, self.small)

    def pad(self, spectrum: Tensor) -> Tensor:
        """Cropped to whole half-plane; 0 beyond the band."""
        return fourier.resize(spectrum, self.small, self.shape)

    def curve(self, whole: Tensor) -> Tensor:
        """A radial curve of the whole field on the rings of the cropped one."""
        ratio = min(self.shape) / min(self.small) * (self.pixel_size / self.band_pixel_size)
        position = torch.arange(fourier.ring_count(self.small), dtype=torch.float64) * ratio
        low = position.floor().clamp(max=len(whole) - 2)
        values = whole.to(device="cpu", dtype=torch.float64)
        index = low.to(torch.int64)
        return torch.lerp(values[index], values[index + 1], (position - low).clamp(max=1.0))

    def extended(self, margin: int) -> Band:
        """The band of a field that is ``margin`` px of the band larger on each side."""
        height, width = self.small
        small = (height + 2 * margin, width + 2 * margin)
        whole = (round(self.shape[0] * small[0] / height), round(self.shape[1] * small[1] / width))
        return Band(shape=whole, small=small, pixel_size=self.pixel_size, low=self.low)

    def window(self, device: torch.device | str = "cpu") -> Tensor:
        """(h', w'//2+1) float32: 1 where a network may correct, fading to 0 towards both ends of the band."""
        radius = fourier.radius(self.small, device)
        coarse = self.band_pixel_size / self.low
        rise = ((radius / coarse - 0.5) * 2.0).clamp(0.0, 1.0)
        fall = ((0.5 - radius) / (0.5 * (1.0 - _UPPER_EDGE))).clamp(0.0, 1.0)
        return (torch.sin(rise * math.pi / 2.0) * torch.sin(fall * math.pi / 2.0)) ** 2


def band_of(shape: fourier.Shape, pixel_size: float, resolution: float, low: float) -> Band:
    """Band that ends at ``resolution`` Å, or at Nyquist where that is coarser."""
    factor = min(1.0, 2.0 * pixel_size / resolution)

    def size(whole: int) -> int:
        most = whole // MULTIPLE * MULTIPLE
        return max(MULTIPLE, min(most, round(whole * factor / MULTIPLE) * MULTIPLE))

    return Band(shape=shape, small=(size(shape[0]), size(shape[1])), pixel_size=pixel_size, low=low)
