"""What the daemon checks once a second apart from movies: volumes, the watched root, outputs, old events."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from service.health.disks import Disks
from service.health.reserve import Reserve
from service.journal.output_check import NEWEST, OutputCheck
from streamer.errors import UsageError
from streamer.runtime.clock import SYSTEM, utc_text

if TYPE_CHECKING:
    from service.config import Config
    from service.daemon.arrivals import WatchThread
    from service.health.alarms import Alarms
    from service.health.prometheus import Metrics
    from service.journal.journal import Journal
    from service.journal.output_check import Damage
    from service.layout import Layout
    from streamer.runtime.clock import Clock

_log = logging.getLogger(__name__)

_ROOT_WAIT_S = 60.0
_PRUNE_EVERY_S = 60.0
_DAY_S = 86_400.0


def give_back_memory() -> None:
    """Return free memory to the system: a scan of many files, or a long table, leaves holes behind."""
    with suppress(AttributeError, OSError):  # a C library that has no such call
        ctypes.CDLL(None).malloc_trim(0)


class Upkeep:
    """Housekeeping of a running daemon; ``look`` from its loop."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        journal: Journal,
        alarms: Alarms,
        metrics: Metrics,
        clock: Clock = SYSTEM,
    ) -> None:
        self._layout, self._journal, self._alarms, self._metrics, self._clock = layout, journal, alarms, metrics, clock
        self.disks = Disks({"output": layout.output, "state": layout.state, "input": layout.root}, clock)
        self._reserve = Reserve(config.instance, alarms)
        self._kept_s = config.events.retention_days * _DAY_S
        self._began, self._began_wall, self._root_seen = clock.monotonic(), clock.wall(), False
        self._next_prune = clock.monotonic() + _PRUNE_EVERY_S
        self._verifying: OutputCheck | None = None
        self._damaged: set[str] = set()

    @property
    def is_short_of_space(self) -> bool:
        """Whether nothing may be started until there is more space."""
        return self._reserve.is_used_up

    def verify_outputs(self) -> None:
        """Begin to check the newest outputs from before this start."""
        self._verifying = OutputCheck(self._journal.movies.newest(state="done", limit=NEWEST), self._layout)

    def look(self, watching: WatchThread | None, shed: tuple[str, ...]) -> None:
        """Check everything once; ``shed`` is what is left out of movies at present."""
        self._tell_of_overload(shed)
        spaces = self.disks.spaces()
        self._reserve.look(spaces)
        self._metrics.disks({name: space.free for name, space in spaces.items()})
        if watching is not None:
            self._look_for_root(watching)
            self._metrics.overflows(watching.overflows)
        for damage in self._verifying.damages() if self._verifying else ():
            self._mend(damage)
        if self._clock.monotonic() >= self._next_prune:
            self._next_prune = self._clock.monotonic() + _PRUNE_EVERY_S
            self._journal.events.prune(utc_text(self._believed_time() - self._kept_s))
            give_back_memory()

    def _believed_time(self) -> float:
        """UTC seconds, no later than the time that has passed since the start allows.

        A clock that is set forward would make everything look old, and events are forgotten for good.
        """
        passed = self._clock.monotonic() - self._began
        return min(self._clock.wall(), self._began_wall + passed)

    def close(self) -> None:
        """End the threads."""
        self.disks.close()
        if self._verifying is not None:
            self._verifying.close()

    def _tell_of_overload(self, shed: tuple[str, ...]) -> None:
        if shed:
            words = f"{', '.join(shed)} left out: movies arrive faster than they can be processed"
            self._alarms.raise_("overload", f"{words}; to catch up later: streamer movies retry --what-was-shed")
        else:
            self._alarms.clear("overload")

    def _look_for_root(self, watching: WatchThread) -> None:
        """Raise an alarm when the watched root disappears, or does not appear for a minute."""
        if not watching.root_missing:
            self._root_seen = True
            self._alarms.clear("root-missing")
        elif self._root_seen or self._clock.monotonic() - self._began > _ROOT_WAIT_S:
            self._alarms.raise_("root-missing", f"{self._layout.root} is missing; check that it is mounted")

    def _mend(self, damage: Damage) -> None:
        """Report an output with other bytes than were written, and process its movie again.

        A removed output is only reported: it was perhaps not wanted any more.
        """
        _log.error("damaged output: %s (%s)", damage.path, damage.found)
        words = f"{damage.path}: {damage.found}"
        if damage.movie_id not in self._damaged and damage.is_altered:
            self._damaged.add(damage.movie_id)
            try:
                self._journal.retry(damage.movie_id)
                words += "; the movie is processed again"
            except UsageError as error:
                _log.warning("%s", error)
        self._alarms.tell("output-damaged", words, "critical")
