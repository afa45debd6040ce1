"""Whether super-resolution helps a movie: judged by how much of what it adds is confirmed by unseen frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from streamer.movie_record import SuperResolutionVerdict
from streamer.super_resolution.accumulate import diversity

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from streamer.records import Spectrum

_BREAK_EVEN = 0.5
"""Share of what was added that must be confirmed for it to do more good than harm."""
_BELOW = 0.8
"""From here to the physical Nyquist frequency the plain halves must agree, in units of the latter."""
_WORTH_TRYING, _SIGNIFICANT = 2.0, 4.0
"""Correlation of the halves below, and confirmation beyond Nyquist, in standard deviations of chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """How far unseen frames confirm what super-resolution adds."""

    share: float
    """1 all of it, 0 nothing."""
    error: float
    """Standard deviation of the share by chance."""


def confirmation_of(judged: Tensor) -> Confirmation:
    """Confirmation from how much was confirmed, how much was predicted, and the variance by chance, (3,)."""
    confirmed, predicted, noise = judged.tolist()
    if predicted <= 0.0 or noise <= 0.0:
        return Confirmation(share=0.0, error=math.inf)
    return Confirmation(share=confirmed / predicted, error=math.sqrt(noise) / predicted)


def cannot_help(shifts: torch.Tensor, exposures: torch.Tensor, min_diversity: float) -> SuperResolutionVerdict | None:
    """The verdict where the frames' positions alone decide it, before anything is fused; else None."""
    spread = diversity(shifts, exposures)
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


def judged(
    found: Confirmation,
    control: Confirmation,
    frc: float | None,
    exposures: Tensor,
    shifts: Tensor,
    min_diversity: float,
) -> SuperResolutionVerdict:
    """Judge: confirmed beyond chance, beyond the control, and more good than harm."""
    impossible, spread = cannot_help(shifts, exposures, min_diversity), diversity(shifts, exposures)
    beyond_chance = _SIGNIFICANT * math.hypot(found.error, control.error)
    verdict: Literal["helps", "cannot help", "not shown"]
    if impossible is not None:
        verdict, reason = "cannot help", impossible.reason
    elif not found.share - max(0.0, control.share) > beyond_chance:
        verdict, reason = "not shown", "this movie has too few electrons to show anything beyond Nyquist"
    elif found.share - found.error < _BREAK_EVEN:
        verdict, reason = "not shown", f"unseen frames confirm only {found.share:.2f} of what was added"
    else:
        verdict, reason = "helps", f"unseen frames confirm {found.share:.2f} of what was added beyond Nyquist"
    return SuperResolutionVerdict(
        verdict=verdict,
        reason=reason,
        diversity=round(spread, 4),
        frc_beyond_nyquist=None if frc is None else round(frc, 5),
        confirmed=_rounded(found.share),
        confirmed_error=_rounded(found.error),
        control=_rounded(control.share),
    )


def _rounded(value: float) -> float | None:
    """Four digits; None where nothing was added, so that there is nothing to confirm."""
    return round(value, 4) if abs(value) < 1e4 else None
