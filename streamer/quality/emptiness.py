"""Whether there is anything to see in a movie, compared with what the session's movies usually show. No torch.

Particles make a micrograph lopsided and sparse; noise, empty ice and carbon leave its grey values normally distributed
(``streamer.quality.texture.structure``). What that is worth depends on the session: small proteins at a low dose hardly
stand out. A movie is therefore never called empty by itself, only beside others in which there was something, unless
hardly any of its field can be specimen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.movie_record import MovieQuality, Usual

PLAIN = 1.4
"""Structure below which grey values may be those of noise alone: noise, ice and carbon gave 0.2 to 1.0."""
CLEAR = 3.0
"""Usual structure above which a movie without any is conspicuous."""
_SHARE, _OF_LEAST = 0.25, 0.4
"""Of the usual structure, and of the lowest; a third of the particles leaves at least a third of it."""
_FAINT = 0.1
"""Of the usual SSNR."""
_DIM, _DARK, _COMPARABLE = 0.2, 0.05, 0.5
"""Of the usual electrons."""
_NO_LIGHT = "is the beam blanked, the shutter closed, or a grid bar or thick ice in the way?"
_NO_PARTICLES = "empty ice, carbon, a broken film, or a hole without ice?"


def why_empty(metrics: MovieQuality, n_frames: int, usual: Usual | None, *, agrees: bool) -> str | None:
    """Why there is nothing to see in a movie, in words; None where there is something, or nothing can be said.

    Parameters
    ----------
    usual : of movies in which there was something; None: none yet.
    agrees : whether the halves have anything in common.
    """
    if metrics.not_judged is not None:
        return metrics.not_judged
    if usual is None:
        return None
    if usual.electrons and metrics.mean_counts is not None:
        share = metrics.mean_counts * n_frames / usual.electrons
        if share < _DARK or (share < _DIM and not agrees):
            return f"only {share:.1%} of the usual electrons arrived; {_NO_LIGHT}"
        if share < _COMPARABLE and agrees:
            return None  # particles stand out less in a shorter exposure
    if metrics.structure is not None and not is_plain(metrics):
        return None
    if metrics.structure is not None and metrics.structure < _conspicuous(usual):
        found = f"structure {metrics.structure:.1f}, usually {usual.structure:.1f}"
        return f"no particle stands out ({found}); {_NO_PARTICLES}"
    if not agrees and _is_faint(metrics, usual):
        return f"its halves have nothing in common, those of other movies have; {_NO_PARTICLES}"
    return None


def is_plain(metrics: MovieQuality) -> bool:
    """Whether a movie looks like noise, ice or carbon: with nothing to compare it with, it may be empty or not."""
    return metrics.structure is not None and metrics.structure < PLAIN


def _conspicuous(usual: Usual) -> float:
    """Structure below which a movie is unlike those in which there was something; 0: nothing would be."""
    least = _OF_LEAST * (usual.least_structure or 0.0)
    return max(least, _SHARE * usual.structure) if usual.structure and usual.structure >= CLEAR else least


def _is_faint(metrics: MovieQuality, usual: Usual) -> bool:
    return usual.ssnr_full is not None and usual.ssnr_full > 0 and (metrics.ssnr_full or 0.0) < _FAINT * usual.ssnr_full
