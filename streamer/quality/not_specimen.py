"""What in a micrograph is not specimen: one look at the aligned sum, on a grid of some 16 Å.

Specimens scatter mostly in phase: particles, viruses and membranes differ from ice in texture far more than in mean
counts. What lies in the beam as a whole, ice crystals, carbon and gold, takes counts away over an extended area, at
a sharp edge; a tear lets more through. So the evidence is the local mean of the counts, the local agreement of the
halves, edges, and what hangs together; never a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from streamer import fourier
from streamer.field_mask import CARBON, CRYSTAL, SPECIMEN, FieldMask, clean_mask
from streamer.quality.dark_regions import dark_regions
from streamer.quality.film_edges import film_regions
from streamer.quality.grain import is_carbon_all_over, is_of_film
from streamer.quality.grid import blur, halved

if TYPE_CHECKING:
    from torch import Tensor

    from streamer.records import HalfSums

_CELL = 16.0
"""Å; side of a cell, longer where there would be more than ``_MOST`` along the longer side of the field."""
_LEAST, _MOST = 12, 256
_RIM = 2
"""Cells."""
_SOFT = 10.0
"""Å; standard deviation of the smoothing of the local mean."""
_TEXTURE = (5.0, 20.0)
"""Å; the texture is what passes the Gaussian of the first and not that of the second: about 20 to 100 Å."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the mask is made from, (rows, columns) float32 each, on the CPU."""

    level: Tensor
    """Natural logarithm of the local mean over that of the field."""
    noise: Tensor
    """Of the level: half the difference of the halves."""
    texture: Tensor
    """What the halves agree on between 20 and 100 Å, as the square of a relative contrast; noise averages to 0."""
    cell: float
    """Side of a cell, Å."""


def find_not_specimen(sums: HalfSums, *, has_pattern: bool = False) -> FieldMask:
    """Find what is not specimen in an aligned micrograph; nothing where the images have no mean, or are too small.

    Parameters
    ----------
    has_pattern : the detector's own pattern may be in both halves: as fine as the grain of carbon, it hides it.
    """
    look = look_at(sums)
    if look is None:
        return clean_mask(sums.shape, sums.pixel_size)
    kinds = torch.zeros(look.level.shape, dtype=torch.uint8)

    def has_grain(region: Tensor) -> bool | None:
        if has_pattern:
            return None
        elsewhere = (~region).to(torch.uint8).to(sums.even.device)
        return is_of_film(sums, FieldMask(kinds=elsewhere, shape=sums.shape, pixel_size=sums.pixel_size))

    film = film_regions(look.level, look.texture, look.cell, has_grain)
    kinds = torch.maximum(kinds, film)
    dark = dark_regions(look.level, look.noise, look.texture, look.cell, unlike=kinds > 0)
    kinds = torch.where((kinds == 0) & dark, CRYSTAL, kinds).to(torch.uint8)
    found = FieldMask(kinds=kinds.to(sums.even.device), shape=sums.shape, pixel_size=sums.pixel_size)
    if not has_pattern and is_carbon_all_over(sums, found):
        return replace(found, kinds=torch.where(found.kinds == SPECIMEN, CARBON, found.kinds).to(torch.uint8))
    return found


def look_at(sums: HalfSums) -> Look | None:
    """Local means and texture; None where the field is small, pixels are coarse, or the mean is no sum of counts."""
    size = [side * sums.pixel_size for side in sums.shape]
    cell = max(_CELL, max(size) / _MOST)
    cells = [round(side / cell) for side in size]
    fine = (2 * cells[0], 2 * cells[1])
    if min(cells) < _LEAST or any(a > b for a, b in zip(fine, sums.shape, strict=True)):
        return None
    mean = float((sums.even[0, 0] + sums.odd[0, 0]).real) / (sums.shape[0] * sums.shape[1])
    if not mean > 0.0:
        return None
    even, odd = (fourier.resize(half, sums.shape, fine) for half in (sums.even, sums.odd))
    frequency = fourier.radius(fine, even.device) * (fine[0] / size[0])
    soft, fine_end, coarse_end = (torch.exp(-2.0 * (math.pi * d * frequency) ** 2) for d in (_SOFT, *_TEXTURE))

    def seen(spectrum: Tensor, passed: Tensor) -> Tensor:
        return fourier.to_image(spectrum * passed, fine) / mean

    level, noise = halved(seen(even + odd, soft)), halved(seen(even - odd, soft))
    even, odd = (2.0 * seen(half, fine_end - coarse_end) for half in (even, odd))
    return Look(
        level=_without_rim(level).clamp(min=0.01).log().cpu(),
        noise=_without_rim(noise).cpu(),
        texture=_without_rim(halved(even * odd) / blur(level, 2.0).clamp(min=0.05) ** 2).cpu(),
        cell=size[0] / cells[0],
    )


def _without_rim(image: Tensor) -> Tensor:
    """Outer cells are those next to them: a spectrum's opposite edges touch, and drift fills edges with the mean."""
    padded: Tensor = torch.nn.functional.pad(image[None, None, _RIM:-_RIM, _RIM:-_RIM], (_RIM,) * 4, mode="replicate")
    return padded[0, 0]
