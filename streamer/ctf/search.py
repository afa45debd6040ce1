"""Where the defocus may be: rings are periodic in k², so a Fourier transform along k² shows defocus as a peak.

One transform per sector; a trial of defocus and astigmatism adds up the sectors' values at their own defocus. Every
trial of the whole range is tested in some ten milliseconds, so that none is left out for want of time.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from streamer.ctf.rejection import ring_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.ctf.lens import Lens
    from streamer.ctf.polar import Cells

_SECTORS = 16
_STEP = 40.0
"""Å of defocus between neighbouring values, at most."""
_ASTIGMATISM, _ASTIGMATISM_STEP, _ANGLES = 1350.0, 150.0, 12
"""Half-differences tried, Å, and how many directions of each."""
_CANDIDATES = 3
_USUAL_ASTIGMATISM = 300.0
"""Half-difference, Å."""
_SURE, _SURE_SHARE, _UNSURE_SHARE = 20.0, 0.75, 0.5
"""Peaks below this share of the best are not looked at; next to a sure one fewer are worth the time."""
_SAME = 0.7
"""Peaks nearer than this share of the resolution in defocus are one."""
_CLIP = 6.0
"""Deviations of a cell, in its own standard deviations, beyond which they count no more: what is left of spots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A peak of the search."""

    score: float
    """In standard deviations of chance at one trial; the best of pure noise stays near 6."""
    defocus: float
    """Mean, Å."""
    astigmatism: tuple[float, float]
    """Half-difference times cosine and sine of twice the angle, Å."""
    phase: float
    """Phase shift, rad; 0 unless it is free."""


@dataclass(frozen=True, slots=True)
class _Sectors:
    """Transforms along k² of each sector, (sectors, values): ring amplitude over defocus."""

    values: NDArray[np.complex128]
    step: float
    """Å between values."""
    sd: float
    theta: NDArray[np.float64]
    resolution: float
    """Å: width of a peak."""


def candidates(
    cells: Cells, lens: Lens, defocus: tuple[float, float], phase: tuple[float, float], dispersion: float
) -> list[Candidate]:
    """Best peaks of the search, the best first.

    Parameters
    ----------
    defocus : range of the mean defocus, Å.
    phase : range of the phase shift, rad.
    dispersion : see ``rejection.dispersion_of``.
    """
    sectors = _transform(cells, lens, dispersion)
    first, last = (round(z / sectors.step) for z in defocus)
    last = min(last, sectors.values.shape[1] // 2)
    scores, trials = np.full(last + 1 - first, -np.inf), np.zeros(last + 1 - first, dtype=np.int64)
    z = np.arange(first, last + 1)
    grid = _astigmatisms()
    for number, (a1, a2) in enumerate(grid):
        shifts = np.rint((a1 * np.cos(2 * sectors.theta) + a2 * np.sin(2 * sectors.theta)) / sectors.step)
        total = _added(sectors.values, z, shifts.astype(np.int64))
        score = _likely(_score(total, lens, phase) / sectors.sd, a1, a2)
        better = score > scores
        scores[better], trials[better] = score[better], number
    apart = max(1, round(_SAME * sectors.resolution / sectors.step))
    found: list[Candidate] = []
    left = scores.copy()
    for _ in range(_CANDIDATES):
        best = int(np.argmax(left))
        if not np.isfinite(left[best]):
            break
        left[max(0, best - apart) : best + apart + 1] = -np.inf
        peak = _polished(sectors, lens, phase, z[best] * sectors.step, grid[trials[best]])
        if all(abs(peak.defocus - one.defocus) > 0.1 * sectors.resolution for one in found):
            found.append(peak)
    found.sort(key=lambda one: -one.score)
    share = _SURE_SHARE if found and found[0].score > _SURE else _UNSURE_SHARE
    return [one for one in found if one.score > share * found[0].score]


def _transform(cells: Cells, lens: Lens, dispersion: float) -> _Sectors:
    counts = cells.counts
    limit = _CLIP * np.sqrt(dispersion / np.maximum(counts, 1.0))
    # a second time with means: chance is skewed, and its median is not its mean
    deviation = cells.power / ring_level(cells) - 1.0
    deviation = np.clip(deviation - _smooth_mean(deviation, counts), -limit, limit)
    weighted = counts * deviation
    merged = weighted.reshape(len(weighted), _SECTORS, -1).sum(2)
    low, high = cells.edges
    u = low + (np.arange(len(merged)) + 0.5) * cells.du
    turned = merged * np.exp(1j * lens.aberration * u**2)[:, None]
    length = 1 << math.ceil(math.log2(1.0 / (_STEP * cells.du * lens.wavelength)))
    values = np.fft.fft(turned, length, axis=0)
    step = 1.0 / (length * cells.du * lens.wavelength)
    z = np.fft.fftfreq(length, 1.0 / length) * step
    values *= np.exp(-1j * lens.per_defocus * z * u[0])[:, None]
    theta = (np.arange(_SECTORS) + 0.5) * np.pi / _SECTORS
    sd = math.sqrt(max(0.5 * dispersion * float(counts.sum()), 1e-30))
    return _Sectors(values.T, step, sd, theta, 1.0 / (lens.wavelength * (high - low)))


def _smooth_mean(deviation: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over directions of what deviates, as smooth along k² as no ring of the range is, (bins, 1)."""
    order = 6
    x = np.linspace(-1.0, 1.0, len(deviation))
    basis = np.polynomial.legendre.legvander(x, order)
    weight = np.asarray(counts.sum(1), dtype=np.float64)
    mean = (counts * deviation).sum(1) / np.maximum(weight, 1e-30)
    normal = (basis * weight[:, None]).T @ basis + 1e-9 * max(weight.sum(), 1.0) * np.eye(order + 1)
    fitted = basis @ np.linalg.solve(normal, basis.T @ (weight * mean))
    return np.asarray(fitted[:, None], dtype=np.float64)


@lru_cache(maxsize=1)
def _astigmatisms() -> tuple[tuple[float, float], ...]:
    """Half-difference times cosine and sine of twice the angle, Å: rings of a polar grid."""
    found = [(0.0, 0.0)]
    for ring in range(1, round(_ASTIGMATISM / _ASTIGMATISM_STEP) + 1):
        angles = 2.0 * np.pi * np.arange(min(_ANGLES, 6 * ring)) / min(_ANGLES, 6 * ring)
        found += [(ring * _ASTIGMATISM_STEP * math.cos(a), ring * _ASTIGMATISM_STEP * math.sin(a)) for a in angles]
    return tuple(found)


def _added(values: NDArray[np.complex128], z: NDArray[np.int64], shifts: NDArray[np.int64]) -> NDArray[np.complex128]:
    """Sum over sectors of each one's value at its own defocus; negative defocus wraps to the end of the transform."""
    total = np.zeros(len(z), dtype=np.complex128)
    length = values.shape[1]
    for sector, shift in zip(values, shifts, strict=True):
        start = int(z[0] + shift)
        if 0 <= start and start + len(z) <= length:
            total += sector[start : start + len(z)]
        else:
            total += sector[(z + shift) % length]
    return total


def _score(total: NDArray[np.complex128], lens: Lens, phase: tuple[float, float]) -> NDArray[np.float64]:
    """Strength of rings with the phase that they must have, or with the best one of the range."""
    turned = -total * cmath.exp(-2j * lens.contrast_phase)
    low, high = phase
    if low == high == 0.0:
        return np.asarray(turned.real, dtype=np.float64)
    shift = np.mod(0.5 * np.angle(turned) - low, np.pi)
    beyond = np.where(shift > high - low, np.minimum(shift - (high - low), np.pi - shift), 0.0)
    return np.abs(turned) * np.cos(2.0 * beyond)


def _likely(score: NDArray[np.float64], a1: float, a2: float) -> NDArray[np.float64]:
    """Score less what chance gains by trying large astigmatism, which has many directions and is seldom met."""
    squared = score**2 - 2.0 * math.log1p((a1**2 + a2**2) / _USUAL_ASTIGMATISM**2)
    return np.where(score > 0, np.sqrt(np.maximum(squared, 0.0)), score)


def _polished(
    sectors: _Sectors, lens: Lens, phase: tuple[float, float], defocus: float, start: tuple[float, float]
) -> Candidate:
    """The peak near a trial, by steps that halve."""
    cos2, sin2 = np.cos(2 * sectors.theta), np.sin(2 * sectors.theta)
    rows = np.arange(len(sectors.theta))

    def total(at: NDArray[np.float64]) -> complex:
        place = (at[0] + at[1] * cos2 + at[2] * sin2) / sectors.step
        lower = np.floor(place).astype(np.int64)
        share = place - lower
        length = sectors.values.shape[1]
        near, far = sectors.values[rows, lower % length], sectors.values[rows, (lower + 1) % length]
        return complex((near * (1 - share) + far * share).sum())

    def score(at: NDArray[np.float64]) -> float:
        plain = _score(np.array([total(at)]), lens, phase) / sectors.sd
        return float(_likely(plain, float(at[1]), float(at[2]))[0])

    here = np.array([defocus, *start])
    best, step = score(here), 0.5 * _ASTIGMATISM_STEP
    while step > 0.25 * sectors.step:
        trials = [here + step * sign * np.eye(3)[axis] for axis in range(3) for sign in (-1.0, 1.0)]
        values = [score(trial) for trial in trials]
        if max(values) > best:
            best, here = max(values), trials[int(np.argmax(values))]
        else:
            step *= 0.5
    angle = phase[0]
    if phase[1] > phase[0]:
        turned = -total(here) * cmath.exp(-2j * lens.contrast_phase)
        angle = phase[0] + (0.5 * cmath.phase(turned) - phase[0]) % math.pi
        if angle > phase[1]:
            angle = phase[1] if angle - phase[1] < phase[0] + math.pi - angle else phase[0]
    return Candidate(
        score=best,
        defocus=float(here[0]),
        astigmatism=(float(here[1]), float(here[2])),
        phase=angle,
    )
