"""Extended dark regions that are not specimen: contamination crystals.

Protein shows by its texture: between 20 and 100 Å its contrast is more than a third of what it takes from the mean,
in simulated viruses, filaments and vesicles 0.35 to 2.4, in the palest parts of viruses 0.27. A crystal takes counts
over its whole area and shows little texture inside: 0.05 to 0.3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from streamer.quality.grid import blur, grown, parts, region_of, shrunk

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = (1.2, 0.7, 0.45, 0.3, 0.2, 0.13, 0.1, 0.07)
"""How much darker, in natural logarithm, from what is surely no specimen down to what takes evidence."""
_SURE = 0.4
"""Darker than that no specimen of less than 0.1 µm is: full viruses of 500 and 680 Å took 0.17 and 0.25."""
_TEXTURE, _OF_DARK = 0.24, 0.31
"""Of the darkness, at which it might be specimen: of faint or small regions, and of dark wide ones."""
_DARK, _WIDE = 0.11, 85.0
"""Darkness, and side in Å, of these."""
_NO_WAVE = 0.12
"""Darker than that no wave of thickness is; below, an edge has to be sharp."""
_LEAST_STEP = 0.05
"""At such an edge: waves of thickness are as dark, but not at once."""
_RIM, _FAINT = 0.2, 0.035
"""Share of the darkness, and darkness, down to which a bevelled rim still belongs to it."""
_SMOOTH = 25.0
"""Å."""
_LEAST = 50.0
"""Å; side of the smallest region."""
_LEAST_FAINT = 90.0
"""The same of a faint one: in a trough of thickness a few particles are as dark."""
_SIGMA = 5.0
"""Standard deviations of chance."""


def dark_regions(level: Tensor, noise: Tensor, texture: Tensor, cell: float, unlike: Tensor) -> Tensor:
    """Find crystals, (rows, columns) bool.

    Parameters
    ----------
    level, noise, texture, cell : as in ``streamer.quality.not_specimen.Look``.
    unlike : (rows, columns) bool of what is known not to be specimen.
    """
    smooth, texture = blur(level, _SMOOTH / cell), blur(texture, _SMOOTH / cell)
    chance = _SIGMA * float(blur(noise, _SMOOTH / cell)[~unlike].std()) if bool((~unlike).any()) else 0.0
    found = torch.zeros_like(unlike)
    background = None
    for threshold in _LEVELS:
        if threshold < chance:
            break
        open_field = ~(unlike | found)
        if not bool(open_field.any()):
            break
        if background is None:
            background = _background(smooth, open_field)
        below = background - smooth
        for places in parts((below > threshold) & open_field):
            if len(places) * cell**2 < _LEAST**2:
                continue
            if threshold < _NO_WAVE and len(places) * cell**2 < _LEAST_FAINT**2:
                continue
            core = region_of(places, level.shape)
            if _is_crystal(core, below, texture, cell) and (
                threshold >= _NO_WAVE or _is_sharp(_whole(core, below, 0.5), level, below, cell)
            ):
                found |= _whole(core, below, _RIM)
                background = None  # its own area has to go out of it
    return grown(found, 1) if bool(found.any()) else found


def _background(smooth: Tensor, where: Tensor) -> Tensor:
    """Level of the ice: an even slope through what is left when what is darker is taken out again and again."""
    rows, columns = (torch.linspace(-1.0, 1.0, size) for size in smooth.shape)
    y, x = rows[:, None].expand_as(smooth), columns[None, :].expand_as(smooth)
    basis = torch.stack([torch.ones_like(y), y, x], -1).double()
    kept = where.clone()
    plane = torch.zeros_like(smooth)
    for _ in range(4):
        if int(kept.sum()) < 12:
            break
        values = smooth[kept].double()
        solution = torch.linalg.lstsq(basis[kept], values[:, None]).solution[:, 0]
        plane = (basis @ solution).float()
        rest = smooth - plane
        middle = rest[kept].median()
        spread = 1.5 * float((rest[kept] - middle).abs().median())
        kept = where & ((rest - middle).abs() < max(3.0 * spread, 0.01))
    return plane


def _is_crystal(region: Tensor, below: Tensor, texture: Tensor, cell: float) -> bool:
    inside = shrunk(region, max(1, round(35.0 / cell)))
    if int(inside.sum()) < 6:
        inside = shrunk(region, 1)
    if int(inside.sum()) < 4:
        inside = region
    depth = float(below[inside].median())
    if depth > _SURE:
        return True
    typical = float(torch.quantile(texture[inside], 0.6))  # of a smoothed map: a particle or two must not decide
    limit = _OF_DARK if depth > _DARK and float(region.sum()) * cell**2 > _WIDE**2 else _TEXTURE
    return math.sqrt(max(0.0, typical)) < limit * depth


def _is_sharp(region: Tensor, level: Tensor, below: Tensor, cell: float) -> bool:
    """Whether a region ends within some 50 Å, not as ice that gets thicker."""
    steps = max(2, round(40.0 / cell))
    inner, outer = region & grown(~region, steps), grown(region, steps + 1) & ~grown(region, 1)
    if not bool(inner.any()) or not bool(outer.any()):
        return True
    step = float(level[outer].mean() - level[inner].mean())
    return step > max(_LEAST_STEP, 0.6 * float(below[region].median()))


def _whole(core: Tensor, below: Tensor, share: float) -> Tensor:
    """A dark region up to where it has a share of its darkness."""
    limit = max(share * float(below[core].median()), _FAINT)
    region = core
    for _ in range(10):
        wider = grown(region, 1) & (below > limit)
        if bool((wider == region).all()):
            break
        region = wider | region
    return region
