"""The guard: whether the network may be used for *this* movie, judged by the movie itself.

The gate shows that a version is good on movies it never saw; a movie may still be of another kind: another specimen,
another magnification than its header says, ice without particles, a detector pattern shared by its halves. Each movie's
own halves show it at no cost, as they are denoised anyway. A refused movie gets its Wiener estimate, with the reason.
What is judged has already been left out where the halves do not confirm it (``models.gate.places``), so a movie is
refused only if nothing remains that is better than the Wiener filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamer import fourier
from streamer.movie_record import ModelScore
from streamer.quality import estimators, intervals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.manifest import MovieScore

_TILES = 4
"""Tiles per side, for the spread of a movie's own gain."""
_SURE = 2.0
"""Standard errors by which the gain over the Wiener filter has to exceed 1."""
_SLOPE, _SLOPE_SPREAD = -0.15, 0.15
"""What is known about the gain beforehand: its logarithm falls slowly with that of the Wiener SNBR*."""
_SPREAD, _SPREAD_WEIGHT = 0.12, 4.0
"""The same for its spread between movies of one session, and how many movies that knowledge is worth."""
_OUTLIER = 4.0
"""Standard deviations below the expected gain beyond which a movie is of another kind."""
_LEAST_SHARE = 0.01
"""Of the field; an empty one has a few places where chance agrees."""
_PATTERN = 5.0
"""Standard errors above which a pattern is found."""
_PATTERN_LIMIT = 20.0
"""Å; only finer detail is searched for patterns, because ice, holes and beams are in the same place in every movie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A movie's halves as the guard sees them: whitened spectra of the band, (h', w'//2+1)."""

    raw: estimators.Halves
    linear: estimators.Halves
    served: estimators.Halves
    """W·y + λ(k, x)·(f − W·y) of each half."""
    shape: fourier.Shape
    band_pixel_size: float
    """Å/px."""
    low: float
    """Coarse end of the band, Å."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the guard found out about one movie."""

    refusal: str | None
    remark: str | None
    """What is odd about a movie that is served all the same."""
    gain: float
    """SNBR* of the halves over the Wiener filter's."""
    gain_error: float
    """Standard error of its logarithm, from tiles."""
    expected_gain: float | None
    """Gain to be expected at this movie's SNR, from the held-out movies."""
    pattern: float | None
    """Standard errors by which the micrograph shows what others show at the same place on the detector."""

    def score(self, version: str, *, shown: float | None = None, share: float | None = None) -> ModelScore | None:
        """The part that is published; None if the halves yield no gain.

        Parameters
        ----------
        shown : gain of the whole sum, which is the picture that is shown.
        share : of the field where the network serves.
        """
        if not (math.isfinite(self.gain) and math.isfinite(self.gain_error)):
            return None
        return ModelScore(
            version=version,
            gain=round(self.gain, 4),
            gain_error=round(self.gain_error, 4),
            expected_gain=None if self.expected_gain is None else round(self.expected_gain, 4),
            gain_shown=None if shown is None else round(shown, 4),
            share=None if share is None else round(share, 3),
        )


class Guard:
    """Compares movies with those that a version was measured on."""

    def __init__(self, scores: Sequence[MovieScore], pattern: Tensor | None = None) -> None:
        """Prepare from what is known.

        Parameters
        ----------
        scores : of held-out movies.
        pattern : (h', w') mean of whitened micrographs of the session, looked for in movies of this size; None: not
            looked for.
        """
        used = [s for s in scores if s.snbr > 0.0 and s.snbr_wiener > 0.0]
        self._x = torch.tensor([math.log(s.snbr_wiener) for s in used], dtype=torch.float64)
        self._y = torch.tensor([math.log(s.snbr / s.snbr_wiener) for s in used], dtype=torch.float64)
        self._pattern = pattern

    def look(self, movie: Evidence) -> Verdict:
        """Judge a movie that the network did not learn from."""
        gain, error, wiener = _own_gain(movie)
        expected, spread = self._expected(wiener)
        known = self._pattern if self._pattern is not None and tuple(self._pattern.shape) == movie.shape else None
        pattern = None if known is None else pattern_strength(movie, known)
        return Verdict(
            refusal=self._refusal(gain, error, pattern),
            remark=_less_than_expected(gain, error, expected, spread),
            gain=math.exp(gain) if math.isfinite(gain) else math.nan,
            gain_error=error,
            expected_gain=None if expected is None else math.exp(expected),
            pattern=pattern,
        )

    def _refusal(self, gain: float, error: float, pattern: float | None) -> str | None:
        if not (math.isfinite(gain) and math.isfinite(error)):
            # if it is gone when a tile is left out, what the other tiles share is chance
            return "the halves share no signal in the network's band"
        if pattern is not None and pattern > _PATTERN:
            return f"the micrograph holds what others hold at the same place ({pattern:.0f} sigma): a detector pattern"
        if gain - _SURE * error <= 0.0:
            return f"no better than the Wiener filter on this movie ({math.exp(gain):.2f} ± {error:.0%})"
        return None

    def _expected(self, wiener: float) -> tuple[float | None, float]:
        """Logarithm of the gain to be expected at a Wiener SNBR*, and its standard deviation between movies."""
        n = len(self._x)
        if n == 0 or wiener <= 0.0:
            return None, 0.0
        x_mean, y_mean = float(self._x.mean()), float(self._y.mean())
        dx, dy = self._x - x_mean, self._y - y_mean
        prior = (_SPREAD / _SLOPE_SPREAD) ** 2
        slope = (float((dx * dy).sum()) + prior * _SLOPE) / (float(dx.square().sum()) + prior)
        left = float((dy - slope * dx).square().sum())
        variance = (_SPREAD_WEIGHT * _SPREAD**2 + left) / (_SPREAD_WEIGHT + n - 1)
        away = math.log(wiener) - x_mean
        spread = math.sqrt(variance * (1.0 + 1.0 / n + away**2 / (float(dx.square().sum()) + prior)))
        return y_mean + slope * away, spread


def _less_than_expected(gain: float, error: float, expected: float | None, spread: float) -> str | None:
    """What to say of a movie that gains far less than others of its SNR did. It is no reason to take the gain away."""
    if expected is None or not (math.isfinite(gain) and math.isfinite(error)):
        return None
    if gain >= expected - _OUTLIER * math.hypot(spread, error):
        return None
    return (
        f"{math.exp(gain):.2f} times the Wiener filter where {math.exp(expected):.2f} was to be expected: "
        "another specimen, or another pixel size than the header says"
    )


def nowhere(share: float) -> str | None:
    """Why a movie is refused where the network would serve on next to nothing of its field."""
    return None if share >= _LEAST_SHARE else "nowhere in this movie do its halves confirm what the network changes"


def pattern_of(images: Sequence[Tensor]) -> Tensor:
    """Mean of whitened micrographs of one session, (h', w'): what they share at the same place."""
    return torch.stack(list(images)).mean(0)


def pattern_strength(movie: Evidence, pattern: Tensor) -> float:
    """Standard errors by which a movie's micrograph correlates with a pattern, in the fine part of the band."""
    shape = movie.shape
    radius = fourier.radius(shape, movie.raw[0].device)
    fine = (radius > movie.band_pixel_size / _PATTERN_LIMIT) & (radius < 0.48)
    here = (movie.raw[0] + movie.raw[1]) * fine
    there = torch.fft.rfft2(pattern.to(here.device, torch.float32)) * fine
    weights = fourier.hermitian_weights(shape[1], here.device)
    cross = float(((here.real * there.real + here.imag * there.imag) * weights).double().sum())
    variance = float(((here.abs() * there.abs()).square() * weights).double().sum())
    # coefficients are independent: each product has the variance |a|²|b|²/2, and occurs twice in the full plane
    return cross / math.sqrt(variance) if variance > 0.0 else 0.0


def _own_gain(movie: Evidence) -> tuple[float, float, float]:
    """Log of SNBR* over the Wiener filter's, its standard error, and the Wiener SNBR*."""
    raw, linear, served = (
        [fourier.to_image(half, movie.shape) for half in pair] for pair in (movie.raw, movie.linear, movie.served)
    )
    tile = intervals.tile_shape(movie.shape, _TILES)
    mask = estimators.band_mask(tile, movie.band_pixel_size, movie.low, 2.0 * movie.band_pixel_size)
    table = torch.stack(
        [intervals.tile_sums([*raw, *pair], _TILES)[:, :, mask].sum(-1).cpu() for pair in (linear, served)], dim=1
    )  # (tiles, 2, 7)
    whole = table.sum(0)

    def log_gain(summed: Tensor) -> float:
        linear, served = (float(estimators.ratios(row).snbr) for row in summed)
        return math.log(served / linear) if linear > 0.0 and served > 0.0 else math.nan

    gain = log_gain(whole)
    left_out = torch.tensor([log_gain(whole - one) for one in table], dtype=torch.float64)
    error = intervals.jackknife_error(left_out)
    return gain, error, float(estimators.ratios(whole[0]).snbr)
