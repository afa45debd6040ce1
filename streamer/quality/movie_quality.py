"""The live figures of one movie, for its record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import restore
from streamer.motion import align, field
from streamer.movie_record import MovieQuality, SuperResolutionVerdict
from streamer.quality import estimators
from streamer.quality.texture import texture

if TYPE_CHECKING:
    from streamer.records import Correction, Frames, HalfSums, Motion, Spectrum
    from streamer.settings import QualitySettings

_EARLY_EXPOSURE = 4.0
"""e⁻/Å² up to which motion is called early, as RELION does."""
_CURVE_POINTS = 64


def movie_quality(
    sums: HalfSums,
    spectrum: Spectrum,
    proposal: Correction | None,
    motion: Motion,
    frames: Frames,
    settings: QualitySettings,
    super_resolution: SuperResolutionVerdict,
) -> MovieQuality:
    """Collect what a microscopist wants to know about a movie; unknown is None, never NaN."""
    shape, pixel_size = sums.shape, sums.pixel_size
    band = (settings.band_low, max(settings.band_high, 2.0 * pixel_size))
    mask = estimators.band_mask(shape, pixel_size, *band)
    even, odd = estimators.tapered(sums.even, shape), estimators.tapered(sums.odd, shape)
    halves = {
        name: (estimators.tapered(pair[0], shape), estimators.tapered(pair[1], shape))
        for name, pair in denoised_halves(sums, spectrum, proposal).items()
    } | {"raw": (even, odd)}
    pooled = {
        name: estimators.pooled(estimators.estimate((even, odd), pair, shape), mask) for name, pair in halves.items()
    }
    snr_half = float(pooled["raw"].snr)
    dose = frames.dose_per_frame
    early = None if dose is None else math.ceil(min(_EARLY_EXPOSURE / dose, len(motion.shifts)))
    total_motion, early_motion, late_motion = align.motion_lengths(motion.shifts, pixel_size, early)
    local_motion = field.largest_bending(motion) * pixel_size
    resolution = estimators.resolution_at(spectrum, pixel_size)
    is_unseen = proposal is not None and not proposal.learned_from
    return MovieQuality(
        shifts_yx_px=[[round(float(v), 4) + 0.0 for v in row] for row in motion.shifts],
        total_motion_angstrom=_rounded(total_motion) or 0.0,
        early_motion_angstrom=_rounded(early_motion) or 0.0,
        late_motion_angstrom=_rounded(late_motion) or 0.0,
        motion_information=_rounded(motion.information) or 0.0,
        motion_trusted=motion.trusted,
        mean_counts=_rounded(frames.mean_counts) or 0.0,
        n_hot_pixels=len(frames.hot_pixels),
        snr_half=_rounded(snr_half),
        ssnr_full=_rounded(2.0 * snr_half),
        frc_resolution_angstrom=None if resolution is None else _rounded(resolution),
        snbr_half_wiener=_rounded(pooled["wiener"].snbr) if "wiener" in pooled else None,
        snbr_half_denoised=_rounded(pooled["denoised"].snbr) if "denoised" in pooled and is_unseen else None,
        band_angstrom=[band[0], _rounded(band[1]) or band[1]],
        frc=_curve(spectrum),
        sr=super_resolution,
        motion_model=motion.model,
        motion_converged=motion.converged,
        local_motion_angstrom=_rounded(local_motion) or 0.0,
        residual_gain=None if frames.gain_fit is None else _rounded(frames.gain_fit.residual),
        residual_gain_error=None if frames.gain_fit is None else _rounded(frames.gain_fit.error),
        gain_advice=None if frames.gain_fit is None else frames.gain_fit.advice,
        texture=texture(sums),
        n_wide_defects=frames.n_wide_defects,
        n_listed_defects=frames.n_listed_defects,
        score=None if proposal is None else proposal.score,
    )


def denoised_halves(
    sums: HalfSums, spectrum: Spectrum, proposal: Correction | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Halves as restored by the Wiener filter and by the network in use, each from itself alone, as spectra.

    Returns
    -------
    ``wiener`` where there is signal, ``denoised`` where a network is applied; each (even, odd) of (h, w//2+1).
    """
    if not spectrum.significant:
        return {}
    even, odd = (restore.filtered(half, spectrum.wiener_half, sums.shape) for half in (sums.even, sums.odd))
    images = {"wiener": (even, odd)}
    if proposal is not None and bool((proposal.weight > 0).any()):
        images["denoised"] = (
            restore.merge(even, proposal.even, proposal.weight, sums.shape),
            restore.merge(odd, proposal.odd, proposal.weight, sums.shape),
        )
    return images


def _curve(spectrum: Spectrum) -> list[float]:
    """FRC in equal steps up to Nyquist, each pooled over its rings."""
    rings = len(spectrum.frc)
    index = torch.arange(rings, device=spectrum.frc.device) * _CURVE_POINTS // rings
    steps = torch.zeros(_CURVE_POINTS, dtype=torch.float64, device=spectrum.frc.device)
    sums = steps.clone().index_add_(0, index, spectrum.frc * spectrum.counts)
    counts = steps.index_add_(0, index, spectrum.counts)
    return [round(float(v), 4) + 0.0 for v in sums / counts.clamp(min=1.0)]


def _rounded(value: Tensor | float) -> float | None:
    """Five significant digits: more are noise and make records differ between machines."""
    number = estimators.finite(value)
    return None if number is None else float(f"{number:.5g}")
