"""How much the spectrum says for a fit: how far its rings are followed, and how well they agree.

Three conventions of "the resolution of the fit" are in use. They depend on the area of the image, all of them: more
coefficients show fainter rings. Ours asks band by band for rings of at least half the depth of the fit and three
standard errors of evidence; CTFFIND and cryoSPARC take the correlation of the observed with the expected rings along
the spatial frequency, and where it falls below 0.5 or 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamer.ctf.fit import Fit, model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.ctf.lens import Lens
    from streamer.transfer_figures import State

CTFFIND, CRYOSPARC = 0.5, 0.3
"""Correlations where these programs say that the fit ends."""
LEAST_GAIN, LEAST_SEARCH = 35.0, 7.2
"""Both have to be exceeded, or there are no rings. Gain alone accepts rings of form factors and wrong defocus."""
_GOOD_SEARCH, _GOOD_RESOLUTION = 9.0, 10.0
_GOOD_DISPERSION, _MOST_DISPERSION = 1.4, 1.75
"""Of what a fit to a field leaves, which is 1 where rings and smooth courses are all there is: up-sampled pixels, a
blurred or a computed image are not."""
_BAND, _BAND_STEP = 0.02, 0.005
"""Å⁻¹: width of the bands of the fit resolution, and from one to the next."""
_LEAST_DEPTH, _LEAST_Z, _LEAST_Z_ALONE = 0.5, 3.0, 4.5
"""Of a band: depth of its rings over the fitted one, and standard errors; more where the bands before say nothing."""
_PERIODS = 1.5
"""Periods of the rings that a correlation needs at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Rings along the spatial frequency, averaged over directions at equal phase; arrays (n,) float64."""

    k: NDArray[np.float64]
    """Å⁻¹."""
    weight: NDArray[np.float64]
    """Independent coefficients."""
    observed: NDArray[np.float64]
    """Power over the power without rings, less 1."""
    expected: NDArray[np.float64]
    """The same of the fit."""
    phase: NDArray[np.float64]
    """Of the rings, rad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the figures of a fit rest on."""

    state: State
    score: float
    fit_resolution: float | None
    ctffind_resolution: float | None
    cryosparc_resolution: float | None
    curve: Curve


def evidence_of(fit: Fit, lens: Lens) -> Evidence:
    """Judge a fit."""
    curve = equal_phase(fit, lens)
    correlations, resolution = _correlations(curve), _followed(fit, lens)
    enough = fit.gain > LEAST_GAIN and fit.score > LEAST_SEARCH
    good = fit.score > _GOOD_SEARCH and resolution is not None and resolution < _GOOD_RESOLUTION
    if fit.is_of_field:
        enough, good = enough and fit.dispersion < _MOST_DISPERSION, good and fit.dispersion < _GOOD_DISPERSION
    return Evidence(
        state="none" if not enough else "good" if good else "weak",
        score=_correlation(curve),
        fit_resolution=resolution,
        ctffind_resolution=_correlated(curve, correlations, CTFFIND),
        cryosparc_resolution=_correlated(curve, correlations, CRYOSPARC),
        curve=curve,
    )


def equal_phase(fit: Fit, lens: Lens) -> Curve:
    """Average over directions along lines of equal phase, so that astigmatism blurs nothing."""
    cells = fit.cells
    now = model(cells, lens, fit.values)
    flat = now.without_rings()
    z = fit.defocus
    slope = lens.per_defocus * z - 2.0 * lens.aberration * cells.u
    turned = lens.per_defocus * cells.u * (fit.values[1] * cells.cos2 + fit.values[2] * cells.sin2)
    # near the turning point of a low defocus the phase does not change: directions are alike there
    safe = np.abs(slope) > 0.2 * lens.per_defocus * abs(z)
    along = cells.u + np.where(safe, turned / np.where(safe, slope, 1.0), 0.0)
    centre = cells.k**2
    edges = np.concatenate([[-np.inf], 0.5 * (centre[1:] + centre[:-1]), [np.inf]])
    place = np.clip(np.searchsorted(edges, along.ravel()) - 1, 0, len(centre) - 1)
    beyond = (along.ravel() < centre[0]) | (along.ravel() > centre[-1])
    n = np.where(beyond, 0.0, cells.counts.ravel())

    def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(place, n * values.ravel(), len(centre)) / np.maximum(weight, 1e-30)

    weight = np.bincount(place, n, len(centre)).astype(np.float64)
    phase = lens.per_defocus * z * centre - lens.aberration * centre**2 + 2.0 * (fit.values[3] + lens.contrast_phase)
    return Curve(
        k=cells.k,
        weight=weight,
        observed=averaged(cells.power / flat - 1.0),
        expected=averaged(now.power / flat - 1.0),
        phase=phase,
    )


def _followed(fit: Fit, lens: Lens) -> float | None:
    """Finest resolution in Å to which the rings are followed without a gap; None: nowhere."""
    cells, now = fit.cells, model(fit.cells, lens, fit.values)
    flat = now.without_rings()
    rings, seen = (now.power - flat) / now.power, (cells.power - flat) / now.power
    shared = (cells.counts * rings * seen).sum(1)
    own = (cells.counts * rings**2).sum(1)
    starts = np.arange(cells.k[0], max(cells.k[-1] - _BAND, cells.k[0]) + 1e-9, _BAND_STEP)
    inside = (cells.k >= starts[:, None]) & (cells.k < starts[:, None] + _BAND)
    shared, own = inside @ shared, inside @ own
    z = shared / np.sqrt(np.maximum(own, 1e-30))
    # where rings of the least depth would not show, their absence says nothing
    known = own > (_LEAST_Z / _LEAST_DEPTH) ** 2
    passed = (shared > _LEAST_DEPTH * own) & (z > _LEAST_Z)
    end = _end_of_run(passed, known, z, alone=z > _LEAST_Z_ALONE)
    return None if end is None else float(1.0 / min(starts[end] + _BAND, cells.k[-1]))


def _end_of_run(
    passed: NDArray[np.bool_], known: NDArray[np.bool_], strength: NDArray[np.float64], *, alone: NDArray[np.bool_]
) -> int | None:
    """Last index of the run around the strongest one that passes.

    Parameters
    ----------
    known : where failing to pass ends the run; elsewhere it says nothing.
    alone : what passes even after such places.
    """
    if not passed.any():
        return None
    end = best = int(np.argmax(np.where(passed, strength, -np.inf)))
    for index in range(best + 1, len(passed)):
        if passed[index] and (alone[index] or end == index - 1):
            end = index
        elif known[index] and not passed[index]:
            break
    return end


def _correlations(curve: Curve) -> NDArray[np.float64]:
    """Correlation of observed and expected rings in a window around each spatial frequency, (n,)."""
    turn = np.gradient(curve.phase, curve.k)
    half = 0.5 * np.maximum(_BAND, _PERIODS * 2.0 * np.pi / np.maximum(np.abs(turn), 1e-9))
    first = np.searchsorted(curve.k, curve.k - half)
    last = np.searchsorted(curve.k, curve.k + half, side="right")
    a, b, w = curve.observed, curve.expected, curve.weight
    sums = np.cumsum(np.stack([w, w * a, w * b, w * a * a, w * b * b, w * a * b]), axis=1)
    sums = np.concatenate([np.zeros((6, 1)), sums], axis=1)
    n, by_a, by_b, aa, bb, ab = sums[:, last] - sums[:, first]
    n = np.maximum(n, 1e-30)
    scale = np.maximum(aa - by_a**2 / n, 0.0) * np.maximum(bb - by_b**2 / n, 0.0)
    return np.where(scale > 0, (ab - by_a * by_b / n) / np.sqrt(np.where(scale > 0, scale, 1.0)), 0.0)


def _correlated(curve: Curve, values: NDArray[np.float64], threshold: float) -> float | None:
    """Resolution in Å at which a correlation falls below a threshold; None: it never exceeds it."""
    passed = values > threshold
    strength = values * np.sqrt(np.maximum(curve.weight, 0.0))
    end = _end_of_run(passed, curve.weight > 0, strength, alone=passed)
    return None if end is None else float(1.0 / curve.k[end])


def _correlation(curve: Curve) -> float:
    """Weighted correlation of observed and expected rings over the band."""
    weight, total = curve.weight, curve.weight.sum()
    a, b = (x - (weight * x).sum() / total for x in (curve.observed, curve.expected))
    scale = (weight * a * a).sum() * (weight * b * b).sum()
    return float((weight * a * b).sum() / np.sqrt(scale)) if scale > 0 else 0.0
