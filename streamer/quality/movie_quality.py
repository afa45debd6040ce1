"""The live figures of one movie, for its record."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamer import restore
from streamer.field_mask import clean_mask
from streamer.motion import align, field
from streamer.movie_record import MovieQuality, SuperResolutionVerdict
from streamer.quality import estimators
from streamer.quality.judged_part import JudgedPart, judged_part
from streamer.quality.texture import structure, texture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.motion.track import Motion
    from streamer.records import Correction, Frames, HalfSums, Spectrum
    from streamer.settings import QualitySettings

_EARLY_EXPOSURE = 4.0
"""e⁻/Å² up to which motion is called early, as RELION does."""
_CURVE_POINTS = 64
_UNKNOWN: Mapping[str, Any] = {
    **dict.fromkeys(("snr_half", "ssnr_full", "frc_resolution_angstrom", "snbr_half_wiener", "snbr_half_denoised")),
    **dict.fromkeys(("texture", "structure")),
    "frc": [],
}
"""What says nothing where hardly anything is specimen."""


def movie_quality(
    sums: HalfSums,
    spectrum: Spectrum,
    proposal: Correction | None,
    motion: Motion,
    frames: Frames,
    settings: QualitySettings,
    super_resolution: SuperResolutionVerdict,
    judged: JudgedPart | None = None,
) -> MovieQuality:
    """Collect what a microscopist wants to know about a movie; unknown is None, never NaN.

    Parameters
    ----------
    spectrum : of the whole field, by which it was filtered.
    judged : the part that the figures of the halves are of; None: the whole field.
    """
    judged = judged or judged_part(sums, spectrum, clean_mask(sums.shape, sums.pixel_size))
    shape, pixel_size = sums.shape, sums.pixel_size
    band = (settings.band_low, max(settings.band_high, 2.0 * pixel_size))
    mask = estimators.band_mask(shape, pixel_size, *band)
    pooled = _pooled(sums, spectrum, proposal, judged.window, mask)
    snr_half = float(pooled["raw"].snr)
    lengths = _motion_lengths(motion, pixel_size, frames)
    resolution = estimators.resolution_at(judged.spectrum, pixel_size)
    look = texture(sums, judged.field)
    is_unseen = proposal is not None and not proposal.learned_from
    metrics = MovieQuality(
        shifts_yx_px=[[round(float(v), 4) + 0.0 for v in row] for row in motion.shifts],
        total_motion_angstrom=lengths[0],
        early_motion_angstrom=lengths[1],
        late_motion_angstrom=lengths[2],
        motion_information=_rounded(motion.information),
        motion_trusted=motion.trusted,
        mean_counts=_rounded(frames.mean_counts),
        n_hot_pixels=len(frames.hot_pixels),
        snr_half=_rounded(snr_half),
        ssnr_full=_rounded(2.0 * snr_half),
        frc_resolution_angstrom=None if resolution is None else _rounded(resolution),
        snbr_half_wiener=_rounded(pooled["wiener"].snbr) if "wiener" in pooled else None,
        snbr_half_denoised=_rounded(pooled["denoised"].snbr) if "denoised" in pooled and is_unseen else None,
        band_angstrom=[band[0], _rounded(band[1]) or band[1]],
        frc=_curve(judged.spectrum),
        sr=super_resolution,
        motion_model=motion.model,
        motion_converged=motion.converged,
        motion_error_px=None if motion.error is None else _rounded(motion.error),
        motion_errors_px=[] if motion.errors is None else [round(float(v), 4) for v in motion.errors],
        local_motion_angstrom=_rounded(field.largest_bending(motion) * pixel_size) if motion.trusted else None,
        **_gain_figures(frames),
        fixed_pattern=None if frames.fixed_pattern is None else _rounded(frames.fixed_pattern),
        # a pattern that rules the alignment was not corrected, whatever else is known
        pattern_may_raise=True if motion.fixed_pattern else frames.pattern_may_raise,
        texture=look,
        structure=None if look is None else _rounded(structure(look, shape, pixel_size, usable=judged.field.usable)),
        usable_share=_rounded(judged.field.usable),
        not_specimen={kind: float(f"{share:.4f}") for kind, share in judged.field.shares.items()},
        not_judged=judged.why_not,
        n_wide_defects=frames.n_wide_defects,
        n_listed_defects=frames.n_listed_defects,
        score=None if proposal is None else proposal.score,
    )
    return metrics if judged.why_not is None else replace(metrics, **_UNKNOWN)


def _pooled(
    sums: HalfSums, spectrum: Spectrum, proposal: Correction | None, window: Tensor | None, mask: Tensor
) -> dict[str, estimators.Estimates]:
    """Figures of the halves as they are, ``raw``, and as ``denoised_halves`` makes them."""
    shape = sums.shape
    halves = {
        name: (estimators.tapered(even, shape, window), estimators.tapered(odd, shape, window))
        for name, (even, odd) in denoised_halves(sums, spectrum, proposal).items()
    }
    raw = (estimators.tapered(sums.even, shape, window), estimators.tapered(sums.odd, shape, window))
    halves["raw"] = raw
    return {name: estimators.pooled(estimators.estimate(raw, pair, shape), mask) for name, pair in halves.items()}


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


def _gain_figures(frames: Frames) -> dict[str, Any]:
    """What the frames say about their gain reference; nothing where it was not fitted."""
    fit = frames.gain_fit
    if fit is None:
        return {}
    return {
        "residual_gain": _rounded(fit.residual),
        "residual_gain_error": _rounded(fit.error),
        "gain_advice": fit.advice,
    }


def _motion_lengths(
    motion: Motion, pixel_size: float, frames: Frames
) -> tuple[float | None, float | None, float | None]:
    """Total, early and late motion in Å; None where it is unknown."""
    if not motion.trusted:
        return None, None, None
    early = _early_frames(len(motion.shifts), frames.dose_per_frame, frames.frame_doses)
    total_motion, early_motion, late_motion = align.motion_lengths(motion.shifts, pixel_size, early)
    if early is None:
        return _rounded(total_motion), None, None
    return _rounded(total_motion), _rounded(early_motion), _rounded(late_motion)


def _early_frames(n_frames: int, dose: float | None, doses: tuple[float, ...] | None) -> int | None:
    """Number of frames that begin before 4 e⁻/Å²; None where the exposure is unknown."""
    if dose is None:
        return None
    if doses is None:
        return math.ceil(min(_EARLY_EXPOSURE / dose, n_frames))
    return sum(end - own < _EARLY_EXPOSURE for end, own in zip(accumulate(doses), doses, strict=True))


def _curve(spectrum: Spectrum) -> list[float | None]:
    """FRC in equal steps up to Nyquist, each pooled over its rings; None for a step without any."""
    rings = len(spectrum.frc)
    index = torch.arange(rings, device=spectrum.frc.device) * _CURVE_POINTS // rings
    steps = torch.zeros(_CURVE_POINTS, dtype=torch.float64, device=spectrum.frc.device)
    held = (spectrum.frc != 0).to(torch.float64)
    # the innermost ring is the mean, of which nothing is left
    held[0] = 0.0
    sums = steps.clone().index_add_(0, index, spectrum.frc * spectrum.counts)
    counts = steps.clone().index_add_(0, index, spectrum.counts)
    known = steps.index_add_(0, index, held) > 0
    values = sums / counts.clamp(min=1.0)
    return [round(float(v), 4) + 0.0 if known[step] else None for step, v in enumerate(values)]


def _rounded(value: Tensor | float) -> float | None:
    """Five significant digits: more are noise and make records differ between machines."""
    number = estimators.finite(value)
    return None if number is None else float(f"{number:.5g}")
