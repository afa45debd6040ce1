"""How certain a figure is: bootstrap over micrographs, or over tiles where there is only one micrograph.

Sums are resampled, never ratios: each draw pools whole micrographs, as the figure itself does. A few units have less
spread than the population they are drawn from, so the interval is widened by Student's t over the normal quantile and
by √(n/(n − 1)).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer.quality import estimators

if TYPE_CHECKING:
    from streamer import fourier

FIGURES = ("snr", "gamma", "bias", "bias_total", "noise", "snbr", "snr_denoised", "sbr", "rho2")
"""Fields of ``estimators.Estimates`` for which intervals are given."""
_DRAWS = 1000
_UNDEFINED = 0.025
_NORMAL = 1.959964
"""97.5 % quantile."""

Interval = tuple[Tensor, Tensor]
"""Lower and upper end, 95 %; NaN where a figure is undefined in more than a fortieth of the draws."""


def bootstrap(sums: Tensor, seed: int = 0) -> dict[str, Interval]:
    """95 % intervals of all figures.

    Parameters
    ----------
    sums : (n, 7, …) of ``estimators.estimate``, one per micrograph or tile, at least two.

    Returns
    -------
    Figure → (lower, upper), each (…) float64.
    """
    n = len(sums)
    generator = torch.Generator().manual_seed(seed)
    # how often each unit was drawn: a product with it is the resampled sum
    drawn = torch.randint(n, (_DRAWS, n), generator=generator)
    counts = torch.zeros((_DRAWS, n), dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones((_DRAWS, n), dtype=torch.float64)
    )
    resampled = torch.tensordot(counts, sums.double().cpu(), dims=1).movedim(1, 0)
    found, drawn_figures = estimators.ratios(sums.double().cpu().sum(0)), estimators.ratios(resampled)
    wider = _student(n - 1) / _NORMAL * math.sqrt(n / (n - 1))
    intervals = {}
    for name in FIGURES:
        centre, values = getattr(found, name), getattr(drawn_figures, name)
        ends = torch.nanquantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        ends = torch.where(values.isnan().double().mean(0) > _UNDEFINED, torch.nan, ends)
        intervals[name] = (centre + wider * (ends[0] - centre), centre + wider * (ends[1] - centre))
    return intervals


def tile_sums(images: list[Tensor], tiles: int = 4) -> Tensor:
    """``estimators.estimate`` of each tile of one micrograph.

    Parameters
    ----------
    images : even, odd, and denoised even and odd, each (h, w).
    tiles : per side.

    Returns
    -------
    (tiles², 7, rings of a tile) float64.
    """
    height, width = tile_shape((int(images[0].shape[0]), int(images[0].shape[1])), tiles)

    def tapered(image: Tensor) -> Tensor:
        cut = image[: tiles * height, : tiles * width].float().reshape(tiles, height, tiles, width)
        return estimators.tapered(torch.fft.rfft2(cut.transpose(1, 2).reshape(-1, height, width)), (height, width))

    even, odd, *outputs = (tapered(image) for image in images)
    denoised = (outputs[0], outputs[1]) if outputs else (even, odd)
    return estimators.estimate((even, odd), denoised, (height, width))


def tile_shape(shape: fourier.Shape, tiles: int = 4) -> fourier.Shape:
    """Size of a tile, px."""
    return shape[0] // tiles, shape[1] // tiles


def jackknife_error(left_out: Tensor) -> float:
    """Standard error of a figure from its values (n,) with each unit left out once; NaN if one of them is."""
    n = len(left_out)
    return math.sqrt(float((left_out - left_out.mean()).square().sum()) * (n - 1) / n)


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t. Source: Abramowitz & Stegun 26.7.5."""
    z, v = _NORMAL, float(freedom)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    return z + first / v + second / v**2 + third / v**3
