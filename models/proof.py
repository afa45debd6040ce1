"""Whether a version still fits what is in the microscope, by its scores: what it did on movies that it never saw.

How movies look says that the specimen may be another one, not that the version in use is worse for it: what a network
learns is mostly what particles in ice look like. The version is therefore used on, movie by movie under the guard,
until its own scores prove the change. No torch: the daemon decides this.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.movie_record import ModelScore

_LEAST = 3
"""Scores that a proof needs, and that make a history."""
_SURE = 3.0
"""Standard errors of a proof."""
_SPREAD = 0.12
"""Standard deviation of a gain's logarithm between movies of one specimen, as the guard takes it beforehand."""
_MATTERS = math.log(1.15)
"""How far below what was expected a gain has to be for another version to be worth it."""


def why_unfit(scores: Sequence[ModelScore], before: Sequence[ModelScore]) -> str | None:
    """Why a version is not the right one for the movies since a change, in words; None: that is not proved.

    Parameters
    ----------
    scores : of the version on the movies since the change.
    before : its scores on earlier specimens' movies: what to expect where its manifest does not say it.
    """
    gains = [math.log(score.gain) for score in scores if score.gain > 0.0]
    if len(gains) < _LEAST:
        return None
    weights = [1.0 / (score.gain_error**2 + _SPREAD**2) for score in scores if score.gain > 0.0]
    error = math.sqrt(1.0 / sum(weights))
    gain = _mean(gains, weights)
    if gain + _SURE * error < 0.0:
        return f"{math.exp(gain):.2f} times the Wiener filter in {len(gains)} movies: worse than none"
    short = [
        (expected - math.log(score.gain), weight)
        for score, weight in zip((s for s in scores if s.gain > 0.0), weights, strict=True)
        if (expected := _expected(score, before)) is not None
    ]
    if len(short) < _LEAST:
        return None
    shortfall = _mean(*map(list, zip(*short, strict=True)))
    if shortfall - _SURE * math.sqrt(1.0 / sum(weight for _, weight in short)) < 0.0 or shortfall < _MATTERS:
        return None
    return (
        f"{math.exp(gain):.2f} times the Wiener filter in {len(gains)} movies, "
        f"where {math.exp(gain + shortfall):.2f} was to be expected"
    )


def fits(score: ModelScore | None, before: Sequence[ModelScore]) -> bool:
    """Whether a version did on one movie what was to be expected of it; False where nothing says so."""
    if score is None or score.gain <= 0.0 or (expected := _expected(score, before)) is None:
        return False
    gain, error = math.log(score.gain), math.hypot(score.gain_error, _SPREAD)
    return gain > error and gain > expected - error


def _expected(score: ModelScore, before: Sequence[ModelScore]) -> float | None:
    """Logarithm of the gain to be expected: at this movie's SNR, else the version's own median; None: unknown."""
    if score.expected_gain is not None and score.expected_gain > 0.0:
        return math.log(score.expected_gain)
    known = [math.log(one.gain) for one in before if one.gain > 0.0]
    return median(known) if len(known) >= _LEAST else None


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
