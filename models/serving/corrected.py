"""A network applied to the sum of some frames of a movie: in its band, within bounds, not wrapping round the edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.gate.scoring import weight_curve
from models.networks.denoiser import bounded, infer
from models.training.movie import signs_of
from streamer import fourier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.networks.denoiser import Denoiser
    from streamer.band import Band
    from streamer.ctf.transfer import Optics
    from streamer.records import Spectrum

_MARGIN = 40
"""px of the band by which a field is reflected beyond its edges before it is filtered."""
_SHOWN = 1.4
"""Times the largest Wiener estimate nearby that a pixel of what is shown may be."""
_CELL, _CELLS_NEAR = 8, 2
"""px of the band per cell, to whose multiples bands are rounded, and how many cells to each side are nearby."""
_PEAK = 2
"""px of the band within which a peak that is too high is lowered as a whole."""
_FADE = 8
"""px over which a change fades at the field's edges: it is brought back on a grid that wraps round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """A part of a micrograph and what the network changes in it; all whitened, in the band."""

    band: Band
    raw: Tensor
    """(h', w'//2+1) spectrum of y."""
    linear: Tensor
    """W·y."""
    change: Tensor
    """(h', w') image λ(k)·(f − W·y)."""
    scale: Tensor
    """(h', w'//2+1) amplitude of the noise, by which all were divided."""

    def allowed(self, change: Tensor) -> Tensor:
        """Share of a change, (h', w') in 0…1, that keeps the result within what the Wiener estimate is nearby.

        Compared on a grid twice as fine, because between the band's own pixels, which are as coarse as can be, peaks
        are up to half higher; and given for a peak as a whole: what is cut off at a value overshoots it elsewhere.
        """
        small = self.band.small
        fine = (2 * small[0], 2 * small[1])
        both = torch.stack([self.linear, torch.fft.rfft2(change)]) * self.scale
        linear, there = fourier.to_image(fourier.resize(both, small, fine), fine)
        linear = linear - linear.mean()
        near = nn.functional.max_pool2d(linear.abs()[None, None], 2 * _CELL)
        near = nn.functional.max_pool2d(near, 2 * _CELLS_NEAR + 1, 1, _CELLS_NEAR)
        limit = _SHOWN * nn.functional.interpolate(near, scale_factor=2.0 * _CELL)[0, 0]
        room = (limit - linear * there.sign()) / there.abs().clamp(min=1e-12)
        least = -nn.functional.max_pool2d(-room.clamp(0.0, 1.0)[None, None], 2 * _PEAK)
        # linear between the cells' middles: a cell's own value holds in all of it if its neighbours' are no larger
        least = -nn.functional.max_pool2d(-least, 3, 1, 1)
        return nn.functional.interpolate(least, size=small, mode="bilinear", align_corners=False)[0, 0]

    def in_field(self, change: Tensor) -> Tensor:
        """A change as a spectrum of the whole field, (h, w//2+1), in the micrograph's units."""
        # a map of places spreads a little beyond the band
        inside = self.band.window(change.device) > 0.0
        return self.band.pad(torch.fft.rfft2(change) * (self.scale * inside))


def correct(
    net: Denoiser,
    weight: Sequence[tuple[float, float]],
    part: Tensor,
    share: Tensor,
    spectrum: Spectrum,
    band: Band,
    optics: Optics | None,
) -> Corrected:
    """What a network changes in the sum of some frames.

    Filters see the field with reflected surroundings: on the field itself, a dark edge on one side would come in on the
    other.

    Parameters
    ----------
    weight : λ of the network's version.
    part : Σ w F over these frames, divided by the total's √Σw².
    share : (rings,) their Σw² over the total's.
    optics : phases of the net's input and output are flipped by the sign of this CTF; None: they are not.
    """
    device = part.device
    ssnr = spectrum.ssnr_full * share
    wiener = ssnr / (1.0 + ssnr)
    area = (band.small[0] * band.small[1]) / (band.shape[0] * band.shape[1])
    amplitude = (spectrum.noise * area * share).clamp(min=1e-12).sqrt()
    scale = _plane(amplitude, band, band, device)
    micrograph = band.crop(part) / scale

    margin = min(_MARGIN, (min(band.small) - 1) // 8 * 8)
    wide = band.extended(margin)
    window = wide.window(device)
    if optics is not None:
        window = window * signs_of(wide, optics, device)
    image = fourier.to_image(micrograph, band.small)[None, None]
    around = nn.functional.pad(image, (margin,) * 4, mode="reflect")[0, 0]
    seen = torch.fft.rfft2(around) * window
    filtered = seen * _plane(wiener, band, wide, device)
    raw, linear = fourier.to_image(torch.stack([seen, filtered]), wide.small)
    rings = fourier.ring_frequencies(wide.small) / wide.band_pixel_size
    trusted = window * fourier.from_rings(weight_curve(weight, rings), wide.small, device)
    changed = torch.fft.rfft2(bounded(infer(net, raw, linear, margin=0), linear) - linear) * trusted
    inside = (slice(margin, margin + band.small[0]), slice(margin, margin + band.small[1]))
    rows, columns = (fourier.edge(size, 0, _FADE, device) for size in band.small)
    return Corrected(
        band=band,
        raw=micrograph,
        linear=micrograph * _plane(wiener, band, band, device),
        change=fourier.to_image(changed, wide.small)[inside] * rows[:, None] * columns[None, :],
        scale=scale,
    )


def _plane(curve: Tensor, field: Band, band: Band, device: torch.device) -> Tensor:
    """A radial curve of the whole ``field``, corners included, as a half-plane of ``band``, (h', w'//2+1) float32.

    The band may be of a wider field, whose rings are finer.
    """
    place = fourier.radius(band.small, device).double() * (field.pixel_size * min(field.shape) / band.band_pixel_size)
    values = curve.to(device=device, dtype=torch.float64)
    low = place.floor().clamp(max=len(values) - 2)
    index = low.to(torch.int64)
    return torch.lerp(values[index], values[index + 1], (place - low).clamp(max=1.0)).float()
