"""Cells merged as far as the rings of one candidate allow, and how much that and the finite field blur them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from streamer.ctf.splines import spline_basis

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.ctf.lens import Lens
    from streamer.ctf.polar import Cells

COARSE, FINE = 1.8, 1.0
"""Phase of the rings, rad, that a merged cell spans at most in either direction: to get near, and for the result."""
_SECTORS = (48, 24, 16, 12, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Cells for one fit; arrays are (radial, sectors) float64."""

    counts: NDArray[np.float64]
    """Independent coefficients, divided by the dispersion."""
    power: NDArray[np.float64]
    u: NDArray[np.float64]
    cos2: NDArray[np.float64]
    sin2: NDArray[np.float64]
    k: NDArray[np.float64]
    """(radial,) spatial frequency, Å⁻¹."""
    basis: NDArray[np.float64]
    """(radial, splines) of the smooth courses."""
    depth: NDArray[np.float64]
    """Depth of the rings that remains after merging and in the finite field, 0 to 1."""
    is_of_field: bool
    """Whether the power is that of a field, and not a picture's."""
    bend: NDArray[np.float64]
    """Phase, rad, that a finite field adds to the rings because they bend over its resolution."""
    lean: NDArray[np.float64]
    """Phase, rad Å⁻², that it adds per slope of ln S in k², because the stronger side of a coefficient counts more."""
    slope: NDArray[np.float64]
    """(radial, splines): slope of the smooth courses in k², Å²."""


def merged(
    cells: Cells,
    lens: Lens,
    defocus: float,
    astigmatism: tuple[float, float],
    dispersion: float,
    taper: float,
    phase: float,
) -> Merged:
    """Merge along k² by the defocus and across directions by the astigmatism, both in Å; ``phase`` 0: not at all."""
    half = float(np.hypot(*astigmatism))
    bins, sectors = cells.counts.shape
    _, highest = cells.edges
    radial = max(1, int(phase / (lens.per_defocus * (abs(defocus) + half) * cells.du + 1e-12)))
    radial = min(radial, bins // 64)  # few splines' worth of cells have to remain
    # the phase varies by at most 2 · 2π λ a k² per radian of direction
    fastest = 2.0 * lens.per_defocus * half * highest
    across = next((n for n in reversed(_SECTORS) if fastest * np.pi / n <= phase), sectors)
    starts = np.arange(0, bins, radial)
    widths = np.diff(starts, append=bins)

    def added(values: NDArray[np.float64]) -> NDArray[np.float64]:
        rows: NDArray[np.float64] = np.add.reduceat(values, starts, axis=0)
        cells: NDArray[np.float64] = rows.reshape(len(starts), across, -1).sum(2)
        return cells

    counts = added(cells.counts)
    whole = np.maximum(counts, 1e-30)
    full = added(np.ones_like(cells.counts))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(counts > 0, added(cells.counts * values) / whole, added(values) / full)

    u, cos2, sin2 = mean(cells.u), mean(cells.cos2), mean(cells.sin2)
    there = counts.sum(1)
    centre = np.where(there > 0, (counts * u).sum(1) / np.maximum(there, 1e-30), u.mean(1))
    z = defocus + astigmatism[0] * cos2 + astigmatism[1] * sin2
    along = lens.wavelength * z * (widths * cells.du)[:, None]
    turning = 2.0 * (astigmatism[1] * cos2 - astigmatism[0] * sin2)
    sideways = lens.wavelength * u * turning * np.pi / across
    depth = np.sinc(along) * np.sinc(sideways)
    bend, lean = np.zeros_like(u), np.zeros_like(u)
    if cells.extent is not None:
        kept, bend, lean = _of_field(cells.extent, taper, lens, z, u, cos2)
        depth = depth * kept
    k = np.sqrt(centre)
    basis = spline_basis(k)
    return Merged(
        counts=counts / dispersion,
        power=mean(cells.power),
        u=u,
        cos2=cos2,
        sin2=sin2,
        k=k,
        basis=basis,
        depth=depth,
        is_of_field=cells.extent is not None,
        bend=bend,
        lean=lean,
        slope=np.gradient(basis, centre, axis=0),
    )


def _of_field(
    extent: tuple[float, float],
    taper: float,
    lens: Lens,
    z: NDArray[np.float64],
    u: NDArray[np.float64],
    cos2: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a finite field does to rings: depth kept, and the ``bend`` and ``lean`` of their phase.

    A wave scattered to k comes from λ z k beside its image, one scattered to −k from the other side. With A(d) the
    window's autocorrelation at d = 2 λ z k and f the share of k along an axis, each axis multiplies the depth by
    A(f d), and adds −A″/(4π² A) · 2π λ z and −A′ f/(2π A) · 2k · d(ln S)/dk² to the phase: the first moments of
    exp(2πi d δ) over the spread δ of a coefficient.
    """
    k, kept = np.sqrt(u), np.ones_like(u)
    lag = 2.0 * lens.wavelength * np.abs(z) * k
    moved, spread = np.zeros_like(u), np.zeros_like(u)
    offsets, curve, first, second = _autocorrelation(taper)
    for length, share in zip(extent, (0.5 * (1.0 - cos2), 0.5 * (1.0 + cos2)), strict=True):
        along = np.sqrt(np.clip(share, 0.0, 1.0))
        place = lag * along / length
        kept = kept * np.interp(place, offsets, curve)
        moved -= along * np.interp(place, offsets, first) / (2.0 * np.pi * length)
        spread -= np.interp(place, offsets, second) / (2.0 * np.pi * length) ** 2
    return kept, lens.per_defocus * z * spread, 2.0 * k * moved * np.sign(z)


@lru_cache(maxsize=2)
def _autocorrelation(taper: float) -> tuple[NDArray[np.float64], ...]:
    """Autocorrelation A of a window with raised-cosine edges over the offset in its lengths; A, A′/A and A″/A."""
    n = 2048
    place = (np.arange(n) + 0.5) / n
    window = 0.5 - 0.5 * np.cos(np.pi * np.clip(np.minimum(place, 1.0 - place) / taper, 0.0, 1.0))
    power = np.abs(np.fft.rfft(window, 2 * n)) ** 2
    curve = np.fft.irfft(power)[: n + 1]
    curve = curve / curve[0]
    mirrored = np.concatenate([curve[8:0:-1], curve])
    first = np.gradient(mirrored, 1.0 / n)
    second = np.gradient(first, 1.0 / n)[8:]
    # rings have no phase where no depth is left
    floor = np.maximum(curve, 0.02)
    return np.arange(n + 1) / n, curve, first[8:] / floor, second / floor
