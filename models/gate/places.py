"""Where in a movie the network may serve: λ(k, x), a map, so that one crystal does not cost a field its gain.

What the network changes in one half is compared with the other half, place by place and in three bands: with u the
change and d what the Wiener estimate still misses of the other half, Σ u d / Σ u² is the share of the change that
independent noise confirms there. Where a crystal, a carbon edge or an empty patch makes the network wrong, the share is
0 or below, and the Wiener estimate stays. The halves' changes must also explain that of the whole sum, which is what
is served and what no independent noise can judge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from streamer import fourier

if TYPE_CHECKING:
    from streamer.band import Band

_SPLITS = (40.0, 16.0)
"""Å between the bands: outlines, shapes, detail."""
_SOFT = 0.35
"""Width of a split, in the logarithm of frequency."""
_CELL = 8
"""px of the band that share one value of the map; sizes of bands are multiples of it."""
_REACH = 2.0
"""Cells; standard deviation of the window in which evidence is collected."""
_PRIOR = 16.0
"""Weight of what is usual in this movie, in units of a squared change that unit noise judges: λ is known to ±¼."""
_MOST = 0.8
"""Share of the cells that are changed less than the most that one counts for."""
_ALIKE = (0.6, 1.6)
"""How much of the whole's change the halves' must explain, at the movie's middle, to count as the same change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """λ by band and place."""

    filters: Tensor
    """(bands, h', w'//2+1) that add up to 1."""
    weight: Tensor
    """(bands, h'/cell, w'/cell) in 0…1."""
    confirmed: Tensor
    """(bands, h', w') what the network changes in both halves together, on the scale of a half's noise."""

    def serve(self, change: Tensor) -> Tensor:
        """What is left of a change, (h', w')."""
        shape = (int(change.shape[0]), int(change.shape[1]))
        return (_in_bands(change, self.filters) * _spread(self.weight, shape)).sum(0)

    def explaining(self, whole: Tensor) -> Places:
        """The same for the whole sum, whose change (h', w') must be the one that the halves confirm.

        How much of it the halves' changes explain is compared with the movie's middle, because at the full exposure a
        network changes somewhat more everywhere.
        """
        total = _in_bands(whole, self.filters)
        explained = _collected(total * self.confirmed) / _collected(total.square()).clamp(min=1e-12)
        same = (explained / _middle(explained).clamp(*_ALIKE)).clamp(0.0, 1.0)
        return Places(filters=self.filters, weight=self.weight * same, confirmed=self.confirmed)

    def share(self, spectrum: Tensor) -> float:
        """Share of the field where λ is above ½; bands count by what is changed in them, (h', w'//2+1)."""
        power = torch.stack([(spectrum * one).abs().square().mean() for one in self.filters])
        there = (self.weight > 0.5).to(power.dtype).mean((-2, -1))
        total = float(power.sum())
        return float((there * power).sum()) / total if total > 0.0 else 0.0


def judged_by_place(changes: tuple[Tensor, Tensor], missing: tuple[Tensor, Tensor], band: Band) -> Places:
    """λ by band and place from a movie's halves.

    Parameters
    ----------
    changes : (h', w') images of what the network changes in each half, in units of the half's noise.
    missing : the same of the *other* half on this half's scale, less this half's Wiener estimate.
    """
    filters = _filters(band, changes[0].device)
    even, odd, missing_even, missing_odd = (_in_bands(image, filters) for image in (*changes, *missing))
    agreed = _collected(even * missing_even + odd * missing_odd)
    changed = _collected(even.square() + odd.square())
    # half of the window's weight is independent evidence: ∫g² = ½∫g
    usual = _usual(agreed / changed.clamp(min=1e-12), changed).clamp(0.0, 1.0)
    known = 2.0 * changed + _PRIOR
    # cut off at 1, chance would only ever take away: a standard error is given back where the network is usually right
    weight = ((2.0 * agreed + _PRIOR * usual) / known + usual / known.sqrt()).clamp(0.0, 1.0)
    return Places(filters=filters, weight=weight, confirmed=(even + odd) / math.sqrt(2.0))


def _filters(band: Band, device: torch.device) -> Tensor:
    """(bands, h', w'//2+1) smooth filters that add up to 1."""
    frequency = (fourier.radius(band.small, device) / band.band_pixel_size).clamp(min=1e-6)
    passes = []
    for split in _SPLITS:
        rise = (torch.log(frequency * split) / _SOFT + 0.5).clamp(0.0, 1.0)
        passes.append(torch.sin(rise * math.pi / 2.0) ** 2)
    coarse, fine = passes
    return torch.stack([1.0 - coarse, coarse * (1.0 - fine), coarse * fine])


def _in_bands(image: Tensor, filters: Tensor) -> Tensor:
    """(bands, h', w') parts of an image; they add up to it."""
    return fourier.to_image(torch.fft.rfft2(image) * filters, (int(image.shape[-2]), int(image.shape[-1])))


def _collected(product: Tensor) -> Tensor:
    """Sums of (bands, h', w') over a Gaussian window about each cell, (bands, h'/cell, w'/cell)."""
    cells = nn.functional.avg_pool2d(product[:, None], _CELL) * _CELL**2
    radius = math.ceil(3.0 * _REACH)
    place = torch.arange(-radius, radius + 1, device=product.device, dtype=product.dtype)
    kernel = torch.exp(-0.5 * (place / _REACH) ** 2)
    for kernel_shape, pad in (((1, 1, -1, 1), (0, 0, radius, radius)), ((1, 1, 1, -1), (radius, radius, 0, 0))):
        cells = nn.functional.conv2d(nn.functional.pad(cells, pad), kernel.reshape(kernel_shape))
    return cells[:, 0]


def _middle(values: Tensor) -> Tensor:
    """(bands, 1, 1) median over the cells."""
    return values.flatten(1).median(1).values[:, None, None]


def _usual(shares: Tensor, changed: Tensor) -> Tensor:
    """(bands, 1, 1) median over the cells, which count by how much is changed in them.

    A sparse field has most cells empty, and they must not decide. Cells where most is changed are often those where the
    network is at a loss, so that none counts more than most do.
    """
    cap = torch.quantile(changed.flatten(1), _MOST, dim=1)[:, None]
    weight = torch.minimum(changed.flatten(1), cap)
    order = shares.flatten(1).sort(1)
    passed = weight.gather(1, order.indices).cumsum(1)
    middle = (passed < 0.5 * passed[:, -1:]).sum(1, keepdim=True)
    return order.values.gather(1, middle.clamp(max=order.values.shape[1] - 1))[..., None]


def _spread(cells: Tensor, shape: fourier.Shape) -> Tensor:
    """Cells to (bands, h', w'), linear in between."""
    return nn.functional.interpolate(cells[:, None], size=shape, mode="bilinear", align_corners=False)[:, 0]
