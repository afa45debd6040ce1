"""What is no Thon ring and would be taken for one: reflections of crystals and the rings of crystalline ice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.ctf.splines import spline_basis

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.ctf.polar import Cells

ICE_RINGS = (3.90, 3.66, 3.44, 2.67, 2.25)
"""Å; hexagonal and cubic ice. Three such rings are a perfect Thon pattern of 0.6 µm."""
_RING_HALF, _DROPPED_HALF, _BESIDE = 0.004, 0.0055, 0.014
"""Å⁻¹: half width of a ring, of what is dropped with it, and how far its neighbourhood reaches."""
_LEAST_EXCESS, _LEAST_SIGMA = 0.06, 6.0
_CHANCE_SIGMA = 4.75
"""Of a normal variable exceeded once in a million."""
_FACTOR = 2.0
"""By which a reflection stands above what chance allows: rings and their astigmatism stay far below."""
_MEDIAN_OF_CHANCE = 0.46
"""Median of the squared difference of two means of exponentials over its expectation; 0.455 where many are averaged."""
_LEAK, _FAR = 0.3, 8.0
"""Leaked power that matters, in units of the background; distance in coefficients where leaking falls faster."""
_LEAST_DISPERSION = 1e-5
"""Of a hundred thousand averaged spectra; what scatters less was computed, not recorded."""
_STREAK, _AROUND, _LEAST_STREAK = 64, 8, 0.25
"""Bins that share a mean, sectors on each side that it is compared with, and least excess: astigmatism is gradual."""
_STIFF = 8
"""Splines of the course without rings."""
_BLOCK = 8
"""Bins that share a median."""


def without_spots(cells: Cells) -> Cells:
    """Cells without those that stick out of their ring, and without the neighbours that these leak into."""
    background = ring_median(cells)
    n = np.maximum(cells.counts, 1.0)
    # Wilson and Hilferty's approximation of the quantile of a mean of n exponentials
    limit = (1.0 - 1.0 / (9.0 * n) + _CHANCE_SIGMA / (3.0 * np.sqrt(n))) ** 3
    spots = (cells.counts > 0) & (cells.power > _FACTOR * limit * background)
    if not spots.any():
        return cells
    strength = np.where(spots, cells.counts * cells.power / background, 0.0)
    return replace(cells, counts=np.where(_with_leaks(cells, spots, strength), 0.0, cells.counts))


def _with_leaks(cells: Cells, spots: NDArray[np.bool_], strength: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Spots and the cells around them that they leak into, by their strength in single coefficients."""
    k, wide = np.sqrt(cells.u.mean(1)), np.zeros_like(spots)
    # a faded edge leaks as 1/(π d)² near a spot and faster from half the taper's length on, d in coefficients
    near = np.sqrt(strength / _LEAK) / np.pi
    reach = np.minimum(near, (strength / _LEAK / np.pi**2 * _FAR**4) ** (1.0 / 6.0))
    reach = (np.maximum(reach, 1.5) * cells.spacing)[spots]
    rows, sectors = np.nonzero(spots)
    first = np.searchsorted(k, k[rows] - reach)
    last = np.searchsorted(k, k[rows] + reach, side="right")
    width = np.minimum(np.ceil(reach / (k[rows] * cells.dtheta)), spots.shape[1] // 2).astype(np.int64)
    for low, high, sector, side in zip(first, last, sectors, width, strict=True):
        for shift in range(-int(side), int(side) + 1):
            wide[low:high, (sector + shift) % wide.shape[1]] = True  # the half turn is closed
    return wide | spots


def without_streaks(cells: Cells, dispersion: float) -> Cells:
    """Cells without the narrow directions that stand out: a straight edge in the field is a streak across it."""
    bins, sectors = cells.counts.shape
    counts = cells.counts.reshape(bins // _STREAK, _STREAK, sectors).sum(1)
    ratio = cells.counts * cells.power / ring_level(cells)
    mean = ratio.reshape(bins // _STREAK, _STREAK, sectors).sum(1) / np.maximum(counts, 1.0)
    around = np.stack([np.roll(mean, shift, axis=1) for shift in range(-_AROUND, _AROUND + 1)])
    level = np.maximum(np.median(around, axis=0), 1e-30)
    sd = np.sqrt(1.6 * dispersion / np.maximum(counts, 1.0))
    streaks = (counts > 0) & (mean / level - 1.0 > np.maximum(_LEAST_STREAK, _LEAST_SIGMA * sd))
    if not streaks.any():
        return cells
    for shift in (-1, 1):
        streaks = streaks | np.roll(streaks, shift, axis=1)
    return replace(cells, counts=np.where(np.repeat(streaks, _STREAK, axis=0), 0.0, cells.counts))


def ring_median(cells: Cells) -> NDArray[np.float64]:
    """Median power around each cell's ring, (bins, 1): unmoved by spots, smoothed over neighbouring bins."""
    bins = len(cells.power)
    blocks = bins // _BLOCK
    values = np.where(cells.counts > 0, cells.power, np.nan).reshape(blocks, -1)
    known = np.isfinite(values).sum(1) >= 8
    medians = np.full(blocks, np.nan)
    if known.any():
        medians[known] = np.nanmedian(values[known], axis=1)
    centres = (np.arange(blocks) + 0.5) * _BLOCK - 0.5
    filled = np.interp(np.arange(bins), centres[known], medians[known]) if known.any() else np.ones(bins)
    return np.maximum(filled, 1e-30)[:, None]


def ice_excess(cells: Cells, expected: NDArray[np.float64], dispersion: float) -> dict[float, tuple[float, float]]:
    """Excess of power at each ice ring within the band over its neighbourhood, with its standard deviation.

    Parameters
    ----------
    expected : (bins, sectors) or (bins, 1), what the power is divided by first.
    dispersion : variance of the power of one coefficient in units of its square.
    """
    k = np.sqrt(cells.u.mean(1))
    counts = cells.counts.sum(1)
    ratio = (cells.counts * cells.power / expected).sum(1)
    found: dict[float, tuple[float, float]] = {}
    for ring in ICE_RINGS:
        distance = np.abs(k - 1.0 / ring)
        inside = (distance < _RING_HALF) & (counts > 0)
        beside = (distance > _DROPPED_HALF) & (distance < _BESIDE) & (counts > 0)
        n_in, n_beside = counts[inside].sum(), counts[beside].sum()
        if not (n_in > 0 and (k[beside] < 1.0 / ring).any() and (k[beside] > 1.0 / ring).any()):
            continue
        level = ratio[beside].sum() / n_beside
        excess = ratio[inside].sum() / n_in / max(level, 1e-30) - 1.0
        found[ring] = (float(excess), math.sqrt(dispersion * (1.0 / n_in + 1.0 / n_beside)))
    return found


def without_ice_rings(cells: Cells, dispersion: float) -> Cells:
    """Cells without the rings of crystalline ice that stand out."""
    kept = cells.counts
    for ring, (excess, sd) in ice_excess(cells, ring_level(cells), dispersion).items():
        if excess > _LEAST_EXCESS and excess > _LEAST_SIGMA * sd:
            at_ring = np.abs(np.sqrt(cells.u) - 1.0 / ring) < _DROPPED_HALF
            kept = np.where(at_ring, 0.0, kept)
    return replace(cells, counts=kept) if kept is not cells.counts else cells


def ring_level(cells: Cells) -> NDArray[np.float64]:
    """Course of the power along k without rings, (bins, 1): too stiff to follow them, unmoved by spots."""
    k, median = np.sqrt(cells.u.mean(1)), np.log(ring_median(cells)[:, 0])
    # uniform bins of k² are dense at high k
    weight = np.gradient(k)
    basis = spline_basis(k, _STIFF)
    smooth = basis @ np.linalg.solve((basis * weight[:, None]).T @ basis, basis.T @ (weight * median))
    return np.exp(smooth)[:, None]


def dispersion_of(cells: Cells) -> float:
    """Variance of one coefficient's power in units of its square: 1 for a periodogram, less for averages.

    From squared differences of neighbouring sectors, which share background and nearly the phase of the rings; the
    median ignores what is left of spots.
    """
    n, power = cells.counts, cells.power
    next_n, next_power = np.roll(n, -1, axis=1), np.roll(power, -1, axis=1)
    both = (n > 0) & (next_n > 0)
    if both.sum() < 100:
        return 1.0
    variance = 1.0 / np.where(both, n, 1.0) + 1.0 / np.where(both, next_n, 1.0)
    mean = 0.5 * (power + next_power)
    scaled = (power - next_power) ** 2 / (np.maximum(mean, 1e-30) ** 2 * variance)
    found = float(np.median(scaled[both]) / _MEDIAN_OF_CHANCE)
    # of a field itself it cannot be less: a single bright pixel has a flat spectrum that proves nothing
    return max(found, 1.0 if cells.extent is not None else _LEAST_DISPERSION)
