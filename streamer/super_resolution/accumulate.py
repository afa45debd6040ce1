"""Frames onto the grid of half the pixel size: one pass over them, memory that does not grow with their number.

Each tile is cut from every frame where the tile's own shift says it was, the sub-pixel rest is a phase, and its
contribution to the right-hand side B of the ``normal_equations`` is summed, separately for even and odd frames. Local
motion then needs no interpolation. Tiles are as small as the bending of the field requires.

A few tiles are summed twice: once more with the aliases turned by *other* frames' shifts. Anything an estimate finds
beyond Nyquist there is not signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer.errors import StageError
from streamer.motion import field
from streamer.super_resolution.normal_equations import ALIASES, AliasGrid
from streamer.super_resolution.tiles import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.motion.track import Motion

_SIDES = (256, 128, 64)
_WITHIN = 0.05
"""px: how much shifts may differ within a tile, root mean square, before tiles are made smaller."""
_SAMPLE = 16
"""Number of tiles on which spectra and figures are measured."""
_SEED = 4
_TRAINING_PX = 16 * 128 * 128
"""Area of the tiles that a network learns from, px: about the same for any side of the tiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasSums:
    """A movie on the fine grid, before aliases are separated."""

    tiles: Tiles
    grid: AliasGrid
    sums: Tensor
    """(2, 4, n, side, side//2+1) complex64: even and odd frames' Σ_t w exp(−2πi F·s) Y."""
    fractions: Tensor
    """(t, n, 2) float64 px, −½…½."""
    exposures: Tensor
    """(t,) float64 e⁻/Å²."""
    kept: Tensor
    """(t,) int64: the frames that are in the sums, by their number in the movie."""
    sample: Tensor
    """(m,) int64: tiles on which figures are measured, spread over the field."""
    control: Tensor
    """(2, 4, m, side, side//2+1): the sample's sums with the aliases turned by other frames' shifts."""
    control_fractions: Tensor
    """(t, m, 2)."""
    mean: float
    """Mean of one frame."""
    groups: Tensor
    """(g, 4, l, side, side//2+1): sums of every g-th frame of ``training_tiles``; g may be 0."""

    @property
    def parity(self) -> Tensor:
        """(t,) int64: 0 for even and 1 for odd frames."""
        return self.kept % 2

    @property
    def group_of(self) -> Tensor:
        """(t,) int64: the group of each frame."""
        return self.kept % max(1, len(self.groups))

    @property
    def training_tiles(self) -> Tensor:
        """(l,) int64: tiles whose groups are kept, some of the sample spread over the field."""
        return training_tiles(self.sample, self.tiles.side)


def accumulate(
    frame: Callable[[int], Tensor],
    motion: Motion,
    exposures: Tensor,
    *,
    pixel_size: float,
    voltage_kv: float,
    blur: Callable[[Tensor], Tensor] | None = None,
    n_groups: int = 0,
) -> AliasSums:
    """Sum all frames of a movie tile by tile.

    Parameters
    ----------
    frame : returns corrected frame i, (h, w) float32.
    motion : global and local shifts.
    exposures : (t,) e⁻/Å² at the end of each frame, zeros for no weighting.
    pixel_size, voltage_kv : Å/px and kV.
    blur : the detector's transfer beyond its box; see ``AliasGrid``.
    n_groups : even number of interleaved groups that are summed separately, for a network to learn from.

    Frames that contain nothing (all pixels the same) or numbers that are not finite are left out.

    Raises
    ------
    StageError
        If no frame is left.
    """
    first = frame(0)
    device, shape = first.device, (first.shape[0], first.shape[1])
    tiles = Tiles(shape, _side_for(motion, shape))
    weighted = bool((exposures > 0).any())
    grid = AliasGrid(tiles.side, pixel_size, voltage_kv, weighted=weighted, blur=blur, device=device)
    shifts = field.shifts_at(motion, tiles.centres())
    whole = torch.round(shifts)
    fractions = shifts - whole
    sample = torch.linspace(0, len(tiles) - 1, min(_SAMPLE, len(tiles))).round().to(torch.int64)
    chosen = training_tiles(sample, tiles.side)
    others = fractions[_other_frames(len(fractions))][:, sample]
    sums, control, groups = (
        torch.zeros((parts, 4, n, tiles.side, tiles.side // 2 + 1), dtype=torch.complex64, device=device)
        for parts, n in ((2, len(tiles)), (2, len(sample)), (n_groups, len(chosen)))
    )
    kept, total = [], 0.0
    for t, centred, mean in _usable(frame, len(shifts)):
        base = torch.fft.rfft2(tiles.cut(centred, whole[t].to(torch.int64)))
        base *= _ramp(fractions[t], tiles.side, device)
        turned = _turned(base[sample], fractions[t, sample] - others[t])
        decay = -float(exposures[t]) if weighted else None
        _add(sums, t, base, fractions[t], grid, decay)
        _add(control, t, turned, others[t], grid, decay)
        if n_groups:
            _add(groups, t, base[chosen], fractions[t, chosen], grid, decay)
        kept.append(t)
        total += mean
    if not kept:
        raise StageError("no frame contains anything", where="super-resolution", hint="look at the movie: is it blank?")
    at = torch.tensor(kept)
    return AliasSums(
        tiles=tiles,
        grid=grid,
        sums=sums,
        fractions=fractions[at],
        exposures=exposures[at],
        kept=at,
        sample=sample,
        control=control,
        control_fractions=others[at],
        mean=total / len(kept),
        groups=groups,
    )


def training_tiles(sample: Tensor, side: int) -> Tensor:
    """Some of the sample's tiles, spread over the field."""
    n = max(1, min(len(sample), _TRAINING_PX // (side * side)))
    return sample[torch.linspace(0, len(sample) - 1, n).round().to(torch.int64)]


def diversity(shifts: Tensor, exposures: Tensor | None = None) -> float:
    """How evenly the frames' sub-pixel positions are spread, 0…1.

    One minus the largest |Σ_t exp(2πi Δ·s_t)|/T over the three aliases Δ = (1,0), (0,1), (1,1): 0 when all frames are
    at one sub-pixel position, so that nothing can be separated; 1 when they are evenly spread.

    Parameters
    ----------
    shifts : (t, 2) px.
    exposures : (t,) e⁻/Å²; late frames carry little beyond Nyquist and count less (critical exposure 4 e⁻/Å²).
    """
    weights = torch.ones(len(shifts), dtype=torch.float64)
    if exposures is not None:
        weights = torch.exp(-exposures.double().cpu() / 4.0)
    orders = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    turn = 2.0 * math.pi * shifts.double().cpu() @ orders.T
    together = (torch.polar(weights[:, None].expand_as(turn).contiguous(), turn)).sum(0).abs() / weights.sum()
    return 1.0 - float(together.max())


def _add(sums: Tensor, t: int, spectra: Tensor, fractions: Tensor, grid: AliasGrid, exponent: float | None) -> None:
    """Add frame t's tiles (n, side, side//2+1) to its part of (g, 4, n, …), each alias turned and weighted."""
    into = sums[t % len(sums)]
    for a, offset in enumerate(ALIASES):
        part = spectra if exponent is None else spectra * torch.exp(exponent * grid.rate[a])
        into[a].addcmul_(part, _turns(fractions, offset, spectra.device))


def _usable(frame: Callable[[int], Tensor], n: int) -> Iterator[tuple[int, Tensor, float]]:
    """Number, image without its mean, and mean of all frames that contain something."""
    for t in range(n):
        image = frame(t)
        mean = float(image.mean())
        centred = image - mean
        if math.isfinite(mean) and bool(centred.any()):
            yield t, centred, mean


def _turned(spectra: Tensor, by: Tensor) -> Tensor:
    """Tiles of a frame with their aliases turned as if its shift were smaller by ``by`` px."""
    side = spectra.shape[1]
    # in the upper rows, what is below Nyquist is counted one cycle above it: nothing may be turned there
    spectra[:, side // 2 + 1 :] *= _turns(by, (1, 0), spectra.device)
    return spectra


def _side_for(motion: Motion, shape: tuple[int, int]) -> int:
    """Side of the largest tiles within which one shift per frame is close enough, several to a field."""
    for side in (side for side in _SIDES if 1.5 * side <= min(shape)):
        if motion.local is None or _spread_within(motion, Tiles(shape, side)) <= _WITHIN:
            return side
    return _SIDES[-1]


def _spread_within(motion: Motion, tiles: Tiles) -> float:
    """Root mean square of how far shifts within tiles are from those at their centres, px."""
    quarter = tiles.stride / math.sqrt(12.0)
    centres = tiles.centres()
    differences = []
    for step in ((quarter, 0.0), (0.0, quarter)):
        moved = field.shifts_at(motion, centres + torch.tensor(step, dtype=torch.float64))
        away = moved - field.shifts_at(motion, centres)
        differences.append((away - away.mean(0)).square().sum(-1).mean())
    return math.sqrt(float(sum(differences)) / 2.0)


def _other_frames(n: int) -> Tensor:
    """(n,) for each frame another one of the same half, random but always the same."""
    generator = torch.Generator().manual_seed(_SEED)
    order = torch.arange(n)
    for parity in (0, 1):
        order[parity::2] = order[parity::2][torch.randperm(len(order[parity::2]), generator=generator)]
    return order


def _ramp(fractions: Tensor, side: int, device: torch.device) -> Tensor:
    """exp(−2πi f·s) on the coarse half-plane, (n, side, side//2+1), f_y counted 0…1."""
    turns = -2.0 * math.pi * fractions / side
    rows, columns = turns[:, :1] * torch.arange(side), turns[:, 1:] * torch.arange(side // 2 + 1)
    y, x = (torch.polar(torch.ones_like(t), t).to(device, torch.complex64) for t in (rows, columns))
    return y[:, :, None] * x[:, None, :]


def _turns(fractions: Tensor, offset: tuple[int, int], device: torch.device) -> Tensor:
    """exp(2πi Δ·s), (n, 1, 1): what turns the coarse phase into that of an alias."""
    turn = 2.0 * math.pi * (fractions @ torch.tensor(offset, dtype=torch.float64))
    return torch.polar(torch.ones_like(turn), turn).to(device, torch.complex64)[:, None, None]
