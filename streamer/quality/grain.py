"""Whether a field, or what is left of it, has the grain of carbon.

Carbon has a grain as fine as it is coarse, much stronger than that of ice, with normally distributed grey values.
Particles are coarse before they are fine, and stand out. In simulated fields the half-dose SSNR at 15 to 9 Å was 1.2
to 1.6 of carbon, 0.03 to 0.05 of empty ice; that at 100 to 25 Å was 1.4 to 4.1 times as high of carbon, 5 times or more
of specimens, full viruses and filaments aside; and structure was 0.4 to 0.9 of carbon, 2.8 or more of specimens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.band import band_of
from streamer.quality import estimators
from streamer.quality.texture import structure, texture

if TYPE_CHECKING:
    from streamer.field_mask import FieldMask
    from streamer.records import HalfSums

_FINEST = 9.0
"""Å."""
_STRONG, _STEEP, _PLAIN = 0.25, 4.8, 1.2
"""Limits of the three figures."""


def is_carbon_all_over(sums: HalfSums, field: FieldMask) -> bool:
    """Whether all that a mask leaves has the grain of carbon; False where the pixels are too coarse to tell."""
    grain = _grain(sums, field)
    if grain is None or not grain.is_of_film:
        return False
    look = texture(sums, field)
    return look is not None and structure(look, sums.shape, sums.pixel_size, usable=field.usable) < _PLAIN


def is_of_film(sums: HalfSums, field: FieldMask) -> bool | None:
    """Whether what a mask leaves has the grain of a film; None: too coarse pixels, or too little is left."""
    grain = _grain(sums, field)
    return None if grain is None else grain.is_of_film


@dataclass(frozen=True, slots=True)
class _Grain:
    """Half-dose SSNR."""

    coarse: float
    """At 100 to 25 Å."""
    fine: float
    """At 15 to 9 Å."""

    @property
    def is_of_film(self) -> bool:
        return self.fine > _STRONG and self.coarse <= _STEEP * self.fine


def _grain(sums: HalfSums, field: FieldMask) -> _Grain | None:
    """Grain of what a mask leaves; None where the pixels are too coarse, or too little is left."""
    if 2.0 * sums.pixel_size > _FINEST:
        return None
    band = band_of(sums.shape, sums.pixel_size, _FINEST, 1e4)
    window = None if field.is_clean else field.weight(band.small, 25.0, 75.0)
    if window is not None and float(window.mean()) < 0.02:
        return None
    even, odd = (estimators.tapered(band.crop(half), band.small, window) for half in (sums.even, sums.odd))
    rings = estimators.estimate((even, odd), (even, odd), band.small)

    def ssnr(coarse: float, fine: float) -> float:
        inside = estimators.band_mask(band.small, band.band_pixel_size, coarse, fine)
        return float(estimators.pooled(rings, inside).snr) if bool(inside.any()) else 0.0

    return _Grain(coarse=0.5 * (ssnr(100.0, 50.0) + ssnr(50.0, 25.0)), fine=ssnr(15.0, _FINEST))
