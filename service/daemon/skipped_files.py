"""What the daemon leaves out of the watched directory, counted by rule: said once each, not file by file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streamer.watch.names import DEFECT_MAPS, REFERENCES

if TYPE_CHECKING:
    from service.daemon.arrivals import WatchThread
    from service.health.alarms import Alarms
    from service.health.prometheus import Metrics
    from streamer.errors import NotAMovie
    from streamer.records import Movie
    from streamer.watch.skips import Skips

_log = logging.getLogger(__name__)

_MOST_PLACES_TOLD = 20
_MOST_RULES = 24


class SkippedFiles:
    """Counts of what is no movie by its content, and of what rules of names and links left out."""

    def __init__(self, no_movies: dict[str, int], alarms: Alarms, metrics: Metrics) -> None:
        """Continue from what the journal knows."""
        self._no_movies, self._alarms, self._metrics = dict(no_movies), alarms, metrics
        self._by_rule: dict[str, int] = {}
        self._told: set[str] = set()
        self._references: set[str] = set()
        self._exported: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of files by what they are or by the rule that left them out, most frequent first."""
        together = dict(self._by_rule)
        for kind, count in self._no_movies.items():
            together[kind] = together.get(kind, 0) + count
        ordered = sorted(together.items(), key=lambda item: (-item[1], item[0]))
        return dict(ordered[:_MOST_RULES])

    def is_reference(self, movie: Movie, error: NotAMovie) -> bool:
        """Count a file that belongs to the movies without being one, each path once; false for all others."""
        if error.kind not in (REFERENCES, DEFECT_MAPS):
            return False
        if movie.relative not in self._references:
            self._references.add(movie.relative)
            self.add(error)
        return True

    def add(self, error: NotAMovie) -> None:
        """Count a file that is no movie; the first of a kind is written to the log, then each tenfold of them."""
        count = self._no_movies.get(error.kind, 0) + 1
        self._no_movies[error.kind] = count
        if count == 1:
            _log.info("no movie: %s; others like it are only counted", error)
        elif str(count).strip("0") == "1":
            _log.info("%d files skipped: %s", count, error.kind)

    def look(self, watching: WatchThread | None) -> dict[str, int]:
        """Take in what the last scan left out, say what is new, and return ``counts``.

        Links that are not followed are said once per directory and place that they lead to.
        """
        if watching is not None:
            self._note(watching.skips)
        counts = self.counts()
        together = dict.fromkeys(self._exported, 0)
        for words, count in counts.items():
            rule = words.partition(' "')[0].rstrip(":")  # no pattern of a user's becomes a label
            together[rule] = together.get(rule, 0) + count
        for rule, count in together.items():
            self._metrics.left_out(rule, count)
        self._exported = tuple(together)
        return counts

    def _note(self, skips: Skips) -> None:
        for rule, count in skips.counts.items():
            if rule not in self._by_rule:
                _log.info("%d files left out: %s", count, rule)
        self._by_rule = dict(skips.counts)
        for place, words in skips.unfollowed.items():
            if place not in self._told and len(self._told) < _MOST_PLACES_TOLD:
                self._told.add(place)
                _log.warning("%s", words)
                self._alarms.tell("link-not-followed", words)
