"""Watches how well a session's gain reference fits its movies, and says what to set where it does not.

A single movie shows whether the reference is oriented correctly. That the detector's gain has changed since the
reference was recorded shows only by comparison with earlier movies: slightly more of its pattern is left.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.health.alarms import Alarms
    from streamer.movie_record import MovieRecord

_REMEMBERED, _LEAST_KNOWN = 50, 5
_MAX_SESSIONS = 32
_CHANGED, _SURE = 0.03, 6.0
"""Share of the pattern, and number of standard errors, by which a movie must differ from earlier ones."""
_IN_A_ROW = 3
"""Movies that must agree: a single one may show a grid bar."""


class GainWatch:
    """Raises and clears ``gain-wrong`` and ``gain-changed``."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._residuals: dict[str, deque[float]] = {}
        self._changed: dict[str, int] = {}

    def judge(self, record: MovieRecord) -> None:
        """Judge a finished movie."""
        metrics, source = record.metrics, record.source
        if metrics is None or metrics.residual_gain is None or source is None:
            return
        if metrics.gain_advice is not None:
            self._alarms.raise_("gain-wrong", f"{record.path}: {metrics.gain_advice} ({source.gain_path})", "critical")
            return
        self._alarms.clear("gain-wrong")
        if metrics.residual_gain_error is not None:  # a figure of unknown certainty shows no change
            self._compare(record.session, str(source.gain_path), metrics.residual_gain, metrics.residual_gain_error)

    def _compare(self, session: str, gain: str, residual: float, error: float) -> None:
        # a replaced reference starts afresh
        key = f"{session}\0{gain}"
        known = self._residuals.setdefault(key, deque(maxlen=_REMEMBERED))
        while len(self._residuals) > _MAX_SESSIONS:
            del self._residuals[next(iter(self._residuals))]
        usual = median(known) if len(known) >= _LEAST_KNOWN else residual
        if abs(residual - usual) <= max(_CHANGED, _SURE * error):
            known.append(residual)
            if self._changed.pop(key, 0) >= _IN_A_ROW:
                self._alarms.clear("gain-changed")
            return
        self._changed[key] = self._changed.get(key, 0) + 1
        if self._changed[key] == _IN_A_ROW:
            self._alarms.raise_(
                "gain-changed",
                f"{abs(residual):.0%} of the gain reference's pattern is left in the frames, before it was "
                f"{abs(usual):.0%}: the detector has changed since {gain} was recorded; record a new reference, or set "
                "movie.gain",
            )
