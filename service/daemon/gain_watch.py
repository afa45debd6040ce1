"""Watches how well a session's gain reference fits its movies, and says what to set where it does not.

A single movie shows whether the reference is oriented correctly. Where it has too few counts to tell, several do. That
the detector's gain has changed since the reference was recorded shows only by comparison with earlier movies: slightly
more of its pattern is left. Movies without a reference are watched too: their figures may be too good.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from service.health.alarms import RaisedFor
from streamer.writers.made_gain import about_made_gain, is_made_gain, newest_made_gain

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.health.alarms import Alarms
    from streamer.movie_record import MovieQuality, MovieRecord, MovieSource

_REMEMBERED, _LEAST_KNOWN = 50, 5
_MAX_SESSIONS = 32
_CHANGED, _SURE = 0.03, 6.0
"""Share of the pattern, and number of standard errors, by which a movie must differ from earlier ones."""
_IN_A_ROW = 3
"""Movies that must agree: a single one may show a grid bar."""
_HARMS, _CERTAIN = 0.5, 5.0
"""Share of the pattern that is left by a reference that does harm, and standard errors beyond it that are certain."""


class GainWatch:
    """Raises and clears ``gain-wrong``, ``gain-changed`` and ``gain-missing``."""

    def __init__(self, alarms: Alarms, offered: Callable[[str], str | None] = lambda _session: None) -> None:
        """Offered gives the words about the gain that was made from a session's movies, if there is one."""
        self._alarms = alarms
        self._residuals: dict[str, deque[float]] = {}
        self._differ: dict[str, int] = {}
        self._unsure: dict[str, deque[tuple[float, float]]] = {}
        self._stays: dict[str, int] = {}
        self._told: dict[str, str] = {}
        """Session and reference that the alarm was raised about."""
        self._wrong, self._changed = RaisedFor(), RaisedFor()
        self._without = _WithoutGain(alarms, offered)

    def judge(self, record: MovieRecord) -> None:
        """Judge a finished movie."""
        metrics, source = record.metrics, record.source
        if metrics is None or source is None:
            return
        self._without.judge(record, metrics, source)
        gain = source.gain_refused or source.gain_path
        if gain is None:
            self._fits(record.session)
        if metrics.residual_gain is None or gain is None:
            return
        residual, error = metrics.residual_gain, metrics.residual_gain_error
        if metrics.gain_advice is not None:
            self._does_not_fit(record.session, gain, f"{record.path}: {metrics.gain_advice} ({gain} is not applied)")
            return
        if error is None:
            return  # a figure of unknown certainty shows nothing
        wrong = self._together(record.session, gain, residual, error)
        wrong = wrong or self._another(record.session, gain, metrics.fixed_pattern)
        if wrong is not None:
            self._does_not_fit(record.session, gain, wrong)
            return
        self._fits(record.session)
        self._compare(record.session, gain, residual, error)

    def _does_not_fit(self, session: str, gain: str, message: str) -> None:
        """Raise the alarm once for a session's reference, however many movies it is true of."""
        self._wrong.by(session)
        if self._told.get(session) != gain:
            self._told[session] = gain
            _forget_oldest(self._told)
            self._alarms.raise_("gain-wrong", message, "critical")

    def _fits(self, session: str) -> None:
        self._told.pop(session, None)
        if self._wrong.may_end(session):
            self._told.clear()
            self._alarms.clear("gain-wrong")

    def _another(self, session: str, gain: str, pattern: float | None) -> str | None:
        """What shows that a reference is of another camera, mode or time: a pattern stays, whichever it is."""
        key = f"{session}\0{gain}"
        self._stays[key] = 0 if pattern is None or is_made_gain(Path(gain)) else self._stays.get(key, 0) + 1
        _forget_oldest(self._stays)
        if pattern is None or self._stays[key] < _IN_A_ROW:
            return None
        return (
            f"{gain} is applied, but the detector's pattern stays in the frames, {pattern:.1%} from pixel to pixel, "
            "and raises SSNR, FRC and resolution: it may be of another camera, mode or week; record a new reference, "
            "or set movie.gain"
        )

    def _together(self, session: str, gain: str, residual: float, error: float) -> str | None:
        """What movies say together of which each has too few counts to refute the reference; None: it may fit."""
        if error <= 0.0:
            return None
        known = self._unsure.setdefault(f"{session}\0{gain}", deque(maxlen=_REMEMBERED))
        _forget_oldest(self._unsure)
        known.append((residual, error))
        weights = [1.0 / e**2 for _, e in known]
        mean = sum(w * r for w, (r, _) in zip(weights, known, strict=True)) / sum(weights)
        if len(known) < _IN_A_ROW or mean - _CERTAIN * sum(weights) ** -0.5 < _HARMS:
            return None
        return (
            f"{gain} does not fit the frames: each movie has too few counts to tell, but the last {len(known)} "
            f"together show that {mean:.0%} of its pattern is left; it is still applied: set gain.rotate, gain.flip or "
            'movie.gain right, or movie.gain = "none" where the movies are gain corrected'
        )

    def _compare(self, session: str, gain: str, residual: float, error: float) -> None:
        # a replaced reference starts afresh
        key = f"{session}\0{gain}"
        known = self._residuals.setdefault(key, deque(maxlen=_REMEMBERED))
        _forget_oldest(self._residuals)
        usual = median(known) if len(known) >= _LEAST_KNOWN else residual
        if abs(residual - usual) <= max(_CHANGED, _SURE * error):
            known.append(residual)
            self._differ.pop(key, None)
            if self._changed.may_end(session):
                self._alarms.clear("gain-changed")
            return
        self._differ[key] = self._differ.get(key, 0) + 1
        _forget_oldest(self._differ)
        if self._differ[key] >= _IN_A_ROW:
            self._changed.by(session)
        if self._differ[key] == _IN_A_ROW:
            self._alarms.raise_(
                "gain-changed",
                f"{abs(residual):.0%} of the gain reference's pattern is left in the frames, before it was "
                f"{abs(usual):.0%}: the detector has changed since {gain} was recorded; record a new reference, or set "
                "movie.gain",
            )


class _WithoutGain:
    """Raises ``gain-missing`` once per session, and again when the pattern is seen or a gain is offered; clears it."""

    def __init__(self, alarms: Alarms, offered: Callable[[str], str | None]) -> None:
        self._alarms, self._offered = alarms, offered
        self._told: dict[str, tuple[bool, str | None]] = {}
        """Whether a session's pattern was seen, and what was offered, when the alarm was last raised for it."""
        self._raised, self._spared = RaisedFor(), 0

    def judge(self, record: MovieRecord, metrics: MovieQuality, source: MovieSource) -> None:
        """Judge a finished movie."""
        session = record.session
        if source.gain is not None or source.gain_refused is not None or not metrics.pattern_may_raise:
            may_end = self._raised.may_end(session)
            self._spared += may_end
            if may_end and (self._spared >= _IN_A_ROW or source.gain is not None):
                self._told.clear()
                self._alarms.clear("gain-missing")
            return
        self._raised.by(session)
        self._spared = 0
        was_seen = self._told.get(session, (False, None))[0]
        told = was_seen or metrics.fixed_pattern is not None, self._offered(session)
        if told != self._told.get(session):
            self._told[session] = told
            _forget_oldest(self._told)
            words = _words(session, metrics.fixed_pattern, *told)
            self._alarms.raise_("gain-missing", words, "critical" if told[0] else "warning")


def _forget_oldest(known: dict[str, Any]) -> None:
    """Keep what is known of the newest sessions."""
    while len(known) > _MAX_SESSIONS:
        del known[next(iter(known))]


def _words(session: str, seen: float | None, was_seen: bool, offered: str | None) -> str:
    """What is wrong with a session without a gain reference, and what to do."""
    what = "nothing shows that they are gain corrected, and the detector's pattern may raise"
    if was_seen:
        size = "" if seen is None else f", {seen:.1%} from pixel to pixel,"
        what = f"the detector's pattern is in them{size} and raises"
    cure = offered or "or make one: streamer gain MOVIE... --output gain.mrc"
    return (
        f"session {session}: the movies have no gain reference: {what} SSNR, FRC and resolution; put this camera's "
        f"reference above the movies or set movie.gain, {cure}; if the movies are gain corrected already, set "
        'movie.gain = "none"'
    )


def offered_gain(directory: Path) -> str | None:
    """What to do with the gain that was made from the most movies below a session's directory, in words."""
    found = [path for path in map(newest_made_gain, directory.glob("*/")) if path is not None]
    newest = max(found, key=lambda path: path.name, default=None)
    about = None if newest is None else about_made_gain(newest)
    if about is None:
        return None
    more = f", {about.movies_needed} would be enough" if about.movies_needed > about.movies else ""
    return (
        f"or use {newest}, made from {about.movies} movies{more}: {about.left:.1%} of a pattern of {about.spread:.1%} "
        'is expected to stay (gain.from_movies = "use" always applies the newest)'
    )
