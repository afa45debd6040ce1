"""The CTF of a micrograph from its power spectrum: ``estimate_ctf`` is the way in.

Reject what is no ring (``rejection``), find where the defocus may be (``search``), fit rings there (``fit``), and say
how much of it is to be believed (``evidence``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.ctf import rejection, search
from streamer.ctf.evidence import Evidence, evidence_of
from streamer.ctf.fit import Fit, approach, fit, model
from streamer.ctf.merging import COARSE, FINE, merged
from streamer.ctf.polar import TAPER
from streamer.transfer_figures import CtfFigures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.ctf.lens import Lens
    from streamer.ctf.polar import Cells

_LEAST_COEFFICIENTS = 2000.0
"""In the band; fewer cannot show rings against chance."""
_LEAST_LEFT = 0.1
"""Share of the coefficients that has to be left after rejection."""
_DOUBTFUL_SEARCH, _WIDENED = 13.0, 2.0
"""Below this score neighbouring maxima are nearly as good, of which the curvature at one knows nothing."""
_SAME = 20.0
"""Å of mean defocus: fits nearer than this are one."""
_ANY_ANGLE = 180.0 / math.sqrt(12.0)
"""Standard deviation of an angle of which nothing is known, degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRange:
    """Where the answer is looked for."""

    defocus: tuple[float, float] = (2_000.0, 60_000.0)
    """Mean, Å, positive underfocus."""
    phase_shift: tuple[float, float] = (0.0, 0.0)
    """Degrees; the same twice: it is known, as without a phase plate."""

    @property
    def phase_is_free(self) -> bool:
        """Whether the phase shift is fitted."""
        return self.phase_shift[1] > self.phase_shift[0]

    @property
    def phase_rad(self) -> tuple[float, float]:
        """The range in rad."""
        return math.radians(self.phase_shift[0]), math.radians(self.phase_shift[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The figures, and what a picture needs."""

    figures: CtfFigures
    fit: Fit | None
    evidence: Evidence | None
    cells: Cells
    dispersion: float


def estimate_ctf(spectra: Mapping[str, Cells], lens: Lens, within: SearchRange | None = None) -> Estimate:
    """CTF of a micrograph.

    Parameters
    ----------
    spectra : spectra of the same field by name, such as that of the sum and the mean over groups of frames. A solid
        specimen is seen best in the sum; water moves, and its rings survive only in the groups. Both are fitted, and
        the one with the smaller standard deviation is taken.
    lens : constants, which are taken for granted.
    within : where to look.
    """
    within = within or SearchRange()
    tried = [_estimated(name, cells, lens, within) for name, cells in spectra.items()]
    if len(tried) == 1:
        return tried[0]
    order = {"none": 2, "weak": 1, "good": 0}
    return min(
        tried,
        key=lambda one: (
            order[one.figures.state],
            one.figures.defocus_sd_angstrom if one.figures.defocus_sd_angstrom is not None else math.inf,
        ),
    )


def _estimated(name: str, cells: Cells, lens: Lens, within: SearchRange) -> Estimate:
    band = tuple(1.0 / math.sqrt(edge) for edge in cells.edges)
    nothing = CtfFigures(state="none", spectrum=name, fit_band_angstrom=(band[0], band[1]))
    if cells.counts.sum() < _LEAST_COEFFICIENTS or not _has_contrast(cells):
        flag = "ctf: too little in the band to look for rings"
        return Estimate(figures=replace(nothing, flags=(flag,)), fit=None, evidence=None, cells=cells, dispersion=1.0)
    whole = cells.counts.sum()
    cells = rejection.without_spots(cells)
    dispersion = rejection.dispersion_of(cells)
    cells = rejection.without_streaks(cells, dispersion)
    kept = rejection.without_ice_rings(cells, dispersion)
    if kept.counts.sum() < _LEAST_LEFT * whole:
        flag = "ctf: nearly all of the spectrum is lines and spots, in which no rings can be looked for"
        return Estimate(figures=replace(nothing, flags=(flag,)), fit=None, evidence=None, cells=kept, dispersion=1.0)
    best = best_fit(kept, lens, within, dispersion)
    if best is None:
        return Estimate(figures=nothing, fit=None, evidence=None, cells=kept, dispersion=dispersion)
    evidence = evidence_of(best, lens)
    common = replace(
        nothing,
        state=evidence.state,
        gain=best.gain,
        search_score=best.score,
        score=evidence.score,
    )
    common = _with_ice(common, cells, best, lens, dispersion)
    if evidence.state != "none":
        common = _with_rings(common, best, evidence, within)
    return Estimate(figures=common, fit=best, evidence=evidence, cells=kept, dispersion=dispersion)


def best_fit(cells: Cells, lens: Lens, within: SearchRange, dispersion: float) -> Fit | None:
    """Fit at every candidate of the search, and take the one that gains most over no rings."""
    free = within.phase_is_free
    level = rejection.ring_level(cells)[:, 0]
    k = np.sqrt(cells.u.mean(1))
    found: list[Fit] = []
    for candidate in search.candidates(cells, lens, within.defocus, within.phase_rad, dispersion):
        near = merged(cells, lens, candidate.defocus, candidate.astigmatism, dispersion, TAPER, COARSE)
        values = approach(near, lens, candidate, np.interp(near.k, k, level), phase_free=free)
        if any(abs(values[0] - one.defocus) < max(_SAME, 3.0 * one.defocus_sd) for one in found):
            continue  # another way to the same rings
        there = merged(cells, lens, values[0], (values[1], values[2]), dispersion, TAPER, FINE)
        found.append(fit(there, lens, values, candidate.score, phase_free=free))
    sound = [one for one in found if _is_sound(one, within)]
    best = max(sound, key=lambda one: one.gain, default=None)
    if best is None:
        return None
    same = [one.score for one in sound if abs(one.defocus - best.defocus) < _SAME]
    return replace(best, score=max(same))


def _is_sound(one: Fit, within: SearchRange) -> bool:
    """Whether a fit ended where it was asked to look, with a defocus that is positive in every direction."""
    low, high = within.defocus
    half = math.hypot(*one.astigmatism)
    finite = bool(np.isfinite(one.values).all() and np.isfinite(one.covariance).all())
    return finite and 0.5 * low < one.defocus < 1.1 * high and half < one.defocus and one.covariance[0, 0] > 0


def _has_contrast(cells: Cells) -> bool:
    power = cells.power[cells.counts > 0]
    return bool(np.isfinite(power).all() and power.size and power.max() > 0 and np.median(power) > 0)


def _with_rings(figures: CtfFigures, best: Fit, evidence: Evidence, within: SearchRange) -> CtfFigures:
    """Figures that exist only where rings do."""
    widened = _WIDENED if best.score < _DOUBTFUL_SEARCH else 1.0
    covariance = best.covariance * widened**2 + best.structure
    (a1, a2), half = best.astigmatism, math.hypot(*best.astigmatism)
    along = np.array([a1, a2]) / half if half > 0 else np.array([1.0, 0.0])
    across = np.array([-along[1], along[0]])
    u, v = np.array([1.0, *along]), np.array([1.0, *-along])
    split, turning = (float(np.sqrt(d @ covariance[1:3, 1:3] @ d)) for d in (along, across))
    free = within.phase_is_free
    fixed = within.phase_shift[0]
    start = fixed if free else 0.0
    weakest = 0.5 * math.atan2(-best.values[5], -best.values[4])
    return replace(
        figures,
        defocus_u_angstrom=best.defocus + half,
        defocus_v_angstrom=best.defocus - half,
        defocus_u_sd_angstrom=float(np.sqrt(u @ covariance[:3, :3] @ u)),
        defocus_v_sd_angstrom=float(np.sqrt(v @ covariance[:3, :3] @ v)),
        defocus_sd_angstrom=float(np.sqrt(covariance[0, 0])),
        astigmatism_angstrom=2.0 * half,
        astigmatism_sd_angstrom=2.0 * split,
        astigmatism_angle_deg=_angle(0.5 * math.atan2(a2, a1)),
        astigmatism_angle_sd_deg=min(_ANY_ANGLE, math.degrees(0.5 * turning / max(half, 1e-9))),
        phase_shift_deg=start + (math.degrees(best.values[3]) - start) % 180.0 if free else fixed,
        phase_shift_sd_deg=math.degrees(math.sqrt(covariance[3, 3])) if free else None,
        fit_resolution_angstrom=evidence.fit_resolution,
        ctffind_resolution_angstrom=evidence.ctffind_resolution,
        cryosparc_resolution_angstrom=evidence.cryosparc_resolution,
        anisotropy_b_angstrom2=4.0 * math.hypot(best.values[4], best.values[5]),
        anisotropy_b_sd_angstrom2=4.0 * float(np.sqrt(0.5 * (covariance[4, 4] + covariance[5, 5]))),
        anisotropy_angle_deg=_angle(weakest),
    )


def _angle(radians: float) -> float:
    """Degrees above −90 to 90."""
    return 90.0 - (90.0 - math.degrees(radians)) % 180.0


def _with_ice(figures: CtfFigures, cells: Cells, best: Fit, lens: Lens, dispersion: float) -> CtfFigures:
    """The strongest ring of crystalline ice, over what the fit expects there."""
    # along k alone: at these frequencies rings of a field are finer than an ice ring is wide
    level = model(best.cells, lens, best.values).without_rings()
    weight = np.maximum(best.cells.counts.sum(1), 1e-30)
    course = (best.cells.counts * level).sum(1) / weight
    known = best.cells.counts.sum(1) > 0
    expected = np.interp(np.sqrt(cells.u.mean(1)), best.cells.k[known], course[known])[:, None]
    rings = rejection.ice_excess(cells, expected, dispersion)
    if not rings:
        return figures
    at, (excess, sd) = max(rings.items(), key=lambda item: item[1][0])
    return replace(figures, ice_ring_excess=excess, ice_ring_excess_sd=sd, ice_ring_angstrom=at)
