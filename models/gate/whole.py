"""What the picture that is shown is worth: SNBR* of the whole sum, which no other frames can judge.

The halves judge each other, but at half the exposure, where a network gains more. For the whole sum y = s + n there is
Stein's identity: E[f(y)·n] = σ² E[div f(y)] for normally distributed noise of variance σ². So the covariance of the
output with the signal, c_x = cov(f, y) − σ² div f, needs no second measurement, and the divergence is found by nudging
the input with noise b: b·(f(y + εb) − f(y))/ε. The signal's power comes from the halves.

Source: Stein 1981; Ramani, Blu & Unser 2008 for the nudge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from streamer import fourier
from streamer.quality import estimators, intervals

if TYPE_CHECKING:
    from models.gate.guard import Evidence
    from streamer.records import Spectrum

NUDGE = 0.1
"""ε in units of the noise: small for a network, large for its rounding."""
_SEED = 30
_POOLED = 100.0, 6.0
"""Å."""
_CELL = 8
"""px of the band that share one estimate of the noise."""
_TILES = 4
"""Per side, for the error."""
_LARGEST_ERROR = 0.15
"""Of the logarithm; a gain that is known less well is not said. Sparse fields hold too little for it."""


def nudge_of(shape: fourier.Shape, device: torch.device | str) -> Tensor:
    """b, (h', w'//2+1) spectrum of noise with unit variance per px; the same for every movie of a size."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(_SEED))
    nudge: Tensor = torch.fft.rfft2(noise.to(device))
    return nudge


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The whole sum; whitened spectra (h', w'//2+1) of the band."""

    raw: Tensor
    """y."""
    linear: Tensor
    """W·y."""
    served: Tensor
    moved_linear: Tensor
    """How much a nudge of unit variance moves W·y."""
    moved_served: Tensor
    even_share: float
    """Σw² of the even half over the total's."""


def gain_of_whole(halves: Evidence, shown: Shown, spectrum: Spectrum, pixel_size: float) -> float | None:
    """SNBR* of the whole sum over that of its Wiener estimate, pooled over 100-6 Å; None if it is not known well.

    Parameters
    ----------
    halves : for the signal's power, and for the noise's at each place: crystals scatter electrons away.
    spectrum, pixel_size : of the micrograph, for what of these 100-6 Å lies beyond the network's band.
    """
    shape = halves.shape
    finest = max(_POOLED[1], 2.0 * halves.band_pixel_size)
    mask = estimators.band_mask(shape, halves.band_pixel_size, _POOLED[0], finest)
    passed = fourier.from_rings(mask.to(torch.float32), shape, shown.raw.device).round()
    nudge, raw, even, odd = (
        fourier.to_image(estimators.tapered(one, shape) * passed, shape)
        for one in (nudge_of(shape, shown.raw.device), shown.raw, *halves.raw)
    )
    both = max(shown.even_share * (1.0 - shown.even_share), 1e-6) ** 0.5
    noise = _noise_by_place(halves, shown.even_share)
    columns = [even * odd / both]
    for output, moved in ((shown.served, shown.moved_served), (shown.linear, shown.moved_linear)):
        image, change = (fourier.to_image(estimators.tapered(one, shape) * passed, shape) for one in (output, moved))
        columns += [image * raw - noise * nudge * change, image.square()]
    tiles = torch.stack([_tiled(one) for one in columns], dim=1)  # (tiles, 5)
    common, power, signal = _beyond_band(spectrum, pixel_size, halves.band_pixel_size).to(tiles)
    tapered = float(fourier.cosine_taper(shape).square().mean())
    beyond = tapered * torch.stack([signal, common, power, common, power])
    gain, n = _log_gain(tiles.sum(0) + beyond), len(tiles)
    left_out = [_log_gain((tiles.sum(0) - one) * n / (n - 1) + beyond) for one in tiles]
    error = intervals.jackknife_error(torch.tensor(left_out, dtype=torch.float64))
    return math.exp(gain) if error <= _LARGEST_ERROR else None


def _log_gain(sums: Tensor) -> float:
    """Logarithm of the gain from sums (5,): signal, then the covariance with it and the power of either output."""
    signal, *outputs = (float(value) for value in sums)
    snbr = []
    for common, power in (outputs[:2], outputs[2:]):
        rho2 = common * abs(common) / (power * signal) if power > 0.0 and signal > 0.0 else math.nan
        snbr.append(rho2 / (1.0 - rho2) if 0.0 < rho2 < 1.0 else math.nan)
    return math.log(snbr[0] / snbr[1])


def _tiled(image: Tensor) -> Tensor:
    """(tiles,) float64 sums of an image over a grid of tiles."""
    height, width = (size // _TILES for size in image.shape)
    cut = image[: height * _TILES, : width * _TILES].double().reshape(_TILES, height, _TILES, width)
    return cut.sum((1, 3)).flatten().cpu()


def _noise_by_place(halves: Evidence, even_share: float) -> Tensor:
    """(h', w') variance of the noise, whose mean is 1, from what the halves do not share."""
    even, odd = halves.raw
    difference = fourier.to_image((1.0 - even_share) ** 0.5 * even - even_share**0.5 * odd, halves.shape)
    squares = nn.functional.avg_pool2d(difference.square()[None, None], _CELL)
    near = nn.functional.avg_pool2d(squares, 3, 1, 1, count_include_pad=False)
    spread = nn.functional.interpolate(near, size=halves.shape, mode="bilinear", align_corners=False)[0, 0]
    return spread / spread.mean().clamp(min=1e-12)


def _beyond_band(spectrum: Spectrum, pixel_size: float, band_pixel_size: float) -> Tensor:
    """(3,) Σ W·S, Σ W²(S + 1), Σ S over the coefficients from the band's end to 6 Å, for an image of unit noise."""
    frequency = spectrum.fftfreq / pixel_size
    there = (frequency > 0.5 / band_pixel_size) & (frequency <= 1.0 / _POOLED[1])
    ssnr, wiener = spectrum.ssnr_full[there], spectrum.wiener[there]
    counts = 2.0 * spectrum.counts[there]
    return torch.stack([(counts * one).sum() for one in (wiener * ssnr, wiener**2 * (ssnr + 1.0), ssnr)])
