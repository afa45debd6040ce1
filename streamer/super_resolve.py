"""The image on the grid of half the pixel size, and whether it can hold anything more.

First each half is fused with a weak flat prior; what the two have in common, ring by ring, is the signal's power; with
it as prior the whole movie is fused. So the weight comes from the data, and where the halves share nothing the
image fades to 0. Whether super-resolution helps is then a finding, not a promise: the frames must lie at different
sub-pixel positions, and the halves must agree beyond the physical Nyquist frequency. Where the halves of the plain
micrograph share nothing just below that frequency already, there is no use in trying.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from streamer import fourier, quality
from streamer.fuse import FineSolver, Fused, diversity
from streamer.published import SuperResolutionVerdict
from streamer.records import SuperResolution

if TYPE_CHECKING:
    from streamer.records import Spectrum

_FLAT_PRIOR = 1.0
"""Noise over signal power of one frame, for the halves."""
_LEAST_SIGNAL = 1e-3
"""Signal over noise power of one frame below which the prior pulls no harder."""
_BELOW = 0.8
"""From here to the physical Nyquist frequency the plain halves must agree, in units of the latter."""
_BEYOND = (1.02, 1.5)
"""Band in which the halves must agree, in units of the physical Nyquist frequency."""
_WORTH_TRYING, _SIGNIFICANT = 2.0, 3.0
"""Correlation of the halves below and beyond Nyquist, in standard deviations of chance."""


def super_resolve(
    fused: Fused, noise: float, *, pixel_size: float, voltage_kv: float, min_diversity: float
) -> SuperResolution:
    """Fuse a movie on the fine grid.

    Parameters
    ----------
    fused : sums with ``upsampling`` 2.
    noise : variance of one frame per px, white.
    pixel_size, voltage_kv : Å/px (physical) and kV.
    min_diversity : below it the verdict is "cannot help".

    Returns
    -------
    SuperResolution with the (2h, 2w) image on the scale of the plain micrograph at the origin (√frames), and the
    verdict.
    """
    fine = (2 * fused.shape[0], 2 * fused.shape[1])
    flat = torch.full((fine[0], fine[1] // 2 + 1), _FLAT_PRIOR, device=fused.even.device)
    halves = [
        FineSolver(fused, frames, pixel_size=pixel_size, voltage_kv=voltage_kv).solve(half, flat)
        for frames, half in ((slice(0, None, 2), fused.even), (slice(1, None, 2), fused.odd))
    ]
    even, odd = (quality.tapered(half, fine) for half in halves)
    common = quality.covariance(even, odd, fine)
    counts = fourier.coefficient_counts(fine, even.device)
    taper = float((fourier.cosine_taper(fine) ** 2).mean())
    width = max(3, fourier.ring_count(fine) // 50)
    scale = 2.0 * taper * noise * fused.shape[0] * fused.shape[1]
    signal = quality.smooth(common, width) / (quality.smooth(counts, width) * scale)
    prior = fourier.from_rings(1.0 / signal.clamp(min=_LEAST_SIGNAL), fine)
    prior[0, 0] = 0.0  # the mean is kept: the taper took it out of the signal
    whole = FineSolver(fused, slice(None), pixel_size=pixel_size, voltage_kv=voltage_kv)
    solved = whole.solve(fused.even + fused.odd, prior)
    frames = len(fused.fractions)
    # a coarse coefficient is a quarter of the sum of its four fine ones
    image = fourier.to_image(solved, fine) * (4.0 * math.sqrt(frames))
    power = quality.covariance(even, even, fine), quality.covariance(odd, odd, fine)
    return SuperResolution(image=image, verdict=_verdict(fused, common, power, counts, min_diversity))


def cannot_help(shifts: torch.Tensor, exposures: torch.Tensor, min_diversity: float) -> SuperResolutionVerdict | None:
    """The verdict where the frames' positions alone decide it, before anything is fused; else None."""
    spread = diversity(shifts, exposures if bool((exposures > 0).any()) else None)
    if spread >= min_diversity:
        return None
    return SuperResolutionVerdict(
        verdict="cannot help",
        reason=f"the frames lie at too few sub-pixel positions (diversity {spread:.2f}, needs {min_diversity:g})",
        diversity=round(spread, 4),
    )


def nothing_near_nyquist(spectrum: Spectrum) -> SuperResolutionVerdict | None:
    """The verdict where the plain halves share nothing just below the physical Nyquist frequency, else None."""
    near = (spectrum.fftfreq >= _BELOW / 2.0) & (spectrum.fftfreq <= 0.5)
    counts = spectrum.counts[near].sum()
    # the noise is white, so the rings' correlations may be pooled by their number of coefficients
    correlation = float((spectrum.counts * spectrum.frc.nan_to_num())[near].sum() / counts.clamp(min=1))
    if correlation > _WORTH_TRYING * _chance(counts):
        return None
    return SuperResolutionVerdict(
        verdict="not shown",
        reason=f"the halves share nothing between {_BELOW:g} and 1 times the physical Nyquist frequency",
    )


def _chance(counts: torch.Tensor) -> float:
    """Standard deviation of the correlation of unrelated coefficients."""
    return 1.0 / math.sqrt(2.0 * max(1.0, float(counts)))


def _verdict(
    fused: Fused,
    common: torch.Tensor,
    power: tuple[torch.Tensor, torch.Tensor],
    counts: torch.Tensor,
    min_diversity: float,
) -> SuperResolutionVerdict:
    """Judge by diversity and by the halves' correlation beyond the physical Nyquist frequency."""
    frequency = torch.arange(len(common), device=common.device) / (2.0 * min(fused.shape))
    band = (frequency >= _BEYOND[0] / 4.0) & (frequency <= _BEYOND[1] / 4.0)
    product = power[0][band].sum() * power[1][band].sum()
    correlation = float(common[band].sum() / product.clamp(min=1e-300).sqrt())
    spread = diversity(fused.fractions.cpu(), fused.exposures if bool((fused.exposures > 0).any()) else None)
    impossible = cannot_help(fused.fractions.cpu(), fused.exposures, min_diversity)
    verdict: Literal["helps", "cannot help", "not shown"]
    if impossible is not None:
        verdict, reason = "cannot help", impossible.reason
    elif correlation > _SIGNIFICANT * _chance(counts[band].sum()):
        verdict, reason = "helps", "the halves agree beyond the physical Nyquist frequency"
    else:
        verdict, reason = "not shown", "this movie has too few electrons to show agreement beyond Nyquist"
    return SuperResolutionVerdict(
        verdict=verdict, reason=reason, diversity=round(spread, 4), frc_beyond_nyquist=round(correlation, 5)
    )
