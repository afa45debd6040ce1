"""Whether a gain reference fits the movie it is applied to, judged from the movie itself.

The sum of a movie's raw counts shows the detector's fixed pattern, and the reference predicts it: with p the sum and q
one over the reference, each relative to its own local mean, p = b q + noise, and b = Σpq/Σq² is 1 for the right
reference, 0 for one in another orientation or for frames that are already corrected, and −1 for one that should divide
instead of multiply. The share 1 − b is left after correction. At the scale of single pixels a specimen's own structure
is weak compared with counting noise, and unrelated to the reference's.

Correcting leaves (1 − b)² of the pattern's power, not correcting b²: from 1 − b = ½ upwards a reference does harm. One
that is beyond that with certainty is not applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamer.detector.local_mean import clipped, relative
from streamer.detector.orientation import ORIENTATIONS, divides, fitted, turned, unturned
from streamer.records import Gain, GainFit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamer.records import MovieHeader
    from streamer.settings import GainSettings

_LEAST_PATTERN = 0.003
"""Relative standard deviation of a reference below which it predicts nothing."""
_SURE = 8.0
"""Standard errors by which a slope must differ from 0 to be believed."""
_WRONG = 0.5
"""Residual from which correcting adds more of the pattern than it removes."""
_CERTAIN = 5.0
"""Standard errors beyond it from which the reference is refuted, and not applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedGain:
    """The gain as it multiplies a movie's frames, and whether their own pattern agrees."""

    gain: Gain | None = None
    """None also where the frames refute the reference."""
    fit: GainFit | None = None
    """None without a gain, or where the reference has no pattern."""

    @property
    def is_refused(self) -> bool:
        """Whether there is a reference, which the frames refute."""
        return self.fit is not None and self.fit.advice is not None

    @property
    def flags(self) -> tuple[str, ...]:
        """What a user should know about the fit."""
        return () if self.fit is None or self.fit.advice is None else (f"gain: not applied: {self.fit.advice}",)


def fit_gain(
    gain: Gain | None, header: MovieHeader, total: NDArray[np.float32], settings: GainSettings, movie: str
) -> FittedGain:
    """Orient a reference for a movie, and drop it where the movie's own pattern refutes it.

    Parameters
    ----------
    total : (h, w) sum of the raw frames.
    movie : its path, for messages.

    Raises
    ------
    MovieMismatch : the reference does not have the movie's size.
    """
    if gain is None:
        return FittedGain()
    oriented = fitted(gain, header, settings, movie)
    sense = "divide" if divides(gain, header, settings) else "multiply"
    fit = check_fit(total, oriented.values, settings, sense)
    is_refuted = fit is not None and fit.advice is not None
    return FittedGain(gain=None if is_refuted else oriented, fit=fit)


def check_fit(
    total: NDArray[np.float32], values: NDArray[np.float32], settings: GainSettings, sense: str
) -> GainFit | None:
    """Compare a movie's raw counts with its gain.

    Parameters
    ----------
    total : (h, w) sum of the raw frames.
    values : (h, w) gain as it multiplies them; 0 at defects.
    settings : used to orient it.
    sense : "multiply" or "divide", as it was applied.

    Returns
    -------
    The fit, with advice where the reference is refuted; None where it has no pattern.
    """
    good = values > 0
    predicted = np.divide(values[good].mean(), values, out=np.ones_like(values), where=good)
    pattern, seen = relative(predicted), relative(np.where(good, total, total[good].mean()))
    spread = float(pattern.std())
    if spread < _LEAST_PATTERN:
        return None
    pattern, seen = clipped(pattern), clipped(seen)
    slope, error = _slope(seen, pattern)
    residual = 1.0 - slope
    if residual - _CERTAIN * error < _WRONG:
        return GainFit(residual=residual, error=error, spread=spread)
    advice = _advice(seen, pattern, settings, sense)
    return GainFit(residual=residual, error=error, spread=spread, advice=advice)


def _advice(seen: torch.Tensor, pattern: torch.Tensor, settings: GainSettings, sense: str) -> str:
    """The setting under which the reference would fit."""
    # the pattern as stored in the file, so that the orientation found can be set directly
    undone = unturned(pattern.numpy(), settings.rotate, settings.flip)
    best: tuple[float, int, int] | None = None
    for rotate, flip in ORIENTATIONS:
        candidate = turned(undone, rotate, flip)
        if candidate.shape != tuple(seen.shape):
            continue
        slope, error = _slope(seen, torch.from_numpy(candidate))
        if abs(slope) > max(_SURE * error, abs(best[0]) if best else 0.0) and abs(slope) > 1.0 - _WRONG:
            best = slope, rotate, flip
    if best is None:
        slope, error = _slope(seen, pattern)
        seen_share = f"only {slope:.0%}" if slope > _SURE * error else "none"
        return (
            f"the frames show {seen_share} of the gain reference's pattern in any orientation: they are gain corrected "
            "already, or it is another camera's or mode's; if they are corrected set movie.gain = "
            '"none", else set movie.gain to the reference of this camera and mode'
        )
    slope, rotate, flip = best
    words = []
    if (rotate, flip) != (settings.rotate, settings.flip):
        words.append(f"gain.rotate = {rotate} and gain.flip = {flip}")
    if slope < 0:
        words.append(f'gain.sense = "{"divide" if sense == "multiply" else "multiply"}"')
    return f"the gain reference does not fit the frames; it does with {' and '.join(words)}"


def _slope(seen: torch.Tensor, pattern: torch.Tensor) -> tuple[float, float]:
    """Slope of ``seen`` on ``pattern``, and its standard error."""
    power = float(pattern.square().sum())
    slope = float((seen * pattern).sum()) / power
    left = float((seen - slope * pattern).square().mean())
    return slope, (left / power) ** 0.5
