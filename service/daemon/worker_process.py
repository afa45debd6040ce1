"""The worker from the daemon's side: what it is given, what it sends back, and what happens when it dies.

A movie whose worker, or daemon, died is given to the next worker alone: a second death then identifies the culprit, and
movies that were only processed together with it are not blamed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.journal.movie_table import INTERRUPTED
from service.processes.messages import Begin, Failed, Finish, Finished, Progress, Returned, Up, Work
from service.processes.pipes import Child
from streamer.errors import ConfigError, DeviceError, Reason, ServiceError
from streamer.runtime.clock import SYSTEM
from streamer.runtime.fault_point import fault_point
from streamer.runtime.memory import resident_bytes, worker_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.config import Config
    from service.journal.journal import Journal
    from service.journal.movie_table import JournalMovie
    from streamer.runtime.clock import Clock

_log = logging.getLogger(__name__)

_AT_ONCE = 3
"""One movie is read, one computed, one written."""
_STARTS_IN_A_ROW = 3
_START_EVERY_S = 1.0
_STARTS_WITHIN_S = 60.0
"""Loading torch says nothing, and takes long from a slow disk: silence is measured against the setting only after."""
_LOOK_AT_MEMORY_S = 1.0
_ENDED_BY_CONFIG = f"exit status {ConfigError.exit_code}"


def is_suspect(movie: JournalMovie) -> bool:
    """Whether a worker, or the daemon, died while working on this movie: it may be why, so it is processed alone."""
    return movie.deaths > 0 or (movie.reason is not None and movie.reason.error == INTERRUPTED)


@dataclass(slots=True)
class _InHand:
    alone: bool
    begun: bool = False
    stage: str = "waiting"


class WorkerProcess:
    """One worker process and the movies it has in hand.

    Parameters
    ----------
    work_of : makes the order for a movie that was just started; may raise ConfigError.
    finished, failed : called with what the worker reports.
    restarted : called when a worker had to be replaced, with how it ended and the movies given up because of it.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        *,
        threads: int,
        work_of: Callable[[JournalMovie], Work],
        finished: Callable[[Finished], None],
        failed: Callable[[Failed], None],
        restarted: Callable[[str, list[str]], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._config, self._journal, self._threads, self._clock = config, journal, threads, clock
        self._work_of, self._finished, self._failed, self._restarted = work_of, finished, failed, restarted
        self._in_hand: dict[tuple[str, int], _InHand] = {}
        """By movie id and revision."""
        self._heard = 0.0
        self._fruitless = 0
        self._may_take = worker_memory_bytes(config.instance.worker_memory_gib)
        self._memory_seen, self._took_latest = 0.0, False
        self._started = -_START_EVERY_S
        self._finishing = False
        self.device = ""
        self._child: Child | None = None

    def start(self) -> None:
        """Start a worker process."""
        self._started = self._heard = self._clock.monotonic()
        self.device = ""
        self._child = Child("service.processes.worker", Begin(config=self._config), threads=self._threads)
        _log.info("worker %d started", self._child.pid)

    def fileno(self) -> int | None:
        """Descriptor to wait for; None while there is no worker."""
        return None if self._child is None else self._child.fileno()

    @property
    def pid(self) -> int | None:
        """Process id of the worker."""
        return None if self._child is None else self._child.pid

    def dispatch(self) -> bool:
        """Start the next movie if the worker can take one; returns whether it did."""
        if self._child is None or not self.device or self._finishing or len(self._in_hand) >= _AT_ONCE:
            return False
        if any(task.alone for task in self._in_hand.values()):
            return False
        movie = self._next()
        if movie is None or (is_suspect(movie) and self._in_hand):
            return False
        key = movie_id, revision = movie.movie_id, movie.revision
        self._journal.start(movie_id, revision)
        fault_point("started", movie.relative)
        try:
            work = self._work_of(movie)
        except ConfigError as error:
            self._failed(
                Failed(
                    movie_id=movie_id,
                    revision=revision,
                    reason=error.reason(),
                    handling=error.handling,
                    stage="order",
                )
            )
            return True
        except BaseException:
            self._journal.release(movie_id, revision)
            raise
        if not self._in_hand:
            self._heard = self._clock.monotonic()
        self._in_hand[key] = _InHand(is_suspect(movie))
        self._child.send(work)
        return True

    def attend(self) -> None:
        """Process what the worker sent; replace it if it is gone."""
        if self._child is None:
            if not self._finishing and self._clock.monotonic() - self._started >= _START_EVERY_S:
                self.start()
            return
        alive = self._child.alive
        for message in self._child.receive():
            self._heard = self._clock.monotonic()
            self._handle(message)
        silent = self._clock.monotonic() - self._heard
        if not alive:
            self._bury(self._child.ending)
        elif silent > self._may_be_silent_s and (self._in_hand or not self.device):
            self._child.kill()
            self._bury(f"killed after {silent:.0f} s of silence")
        elif (held := self._memory()) is not None and held > self._may_take:
            self._child.kill()
            self._bury(f"killed at {held / 2**30:.1f} GiB of memory, {self._may_take / 2**30:.1f} GiB are allowed")

    @property
    def _may_be_silent_s(self) -> float:
        """How long nothing may be heard of the worker, s; longer while it starts."""
        told = self._config.instance.worker_silence_s
        return told if self.device else max(told, _STARTS_WITHIN_S)

    def finish(self) -> None:
        """Let the worker finish what it has begun, and return the rest."""
        self._finishing = True
        if self._child is not None:
            self._child.send(Finish())

    def close(self, timeout_s: float) -> None:
        """Wait for the worker to exit; kill it after the given time."""
        if self._child is not None:
            self._child.stop(timeout_s)
            self._child = None

    @property
    def has_ended(self) -> bool:
        """Whether the worker is gone and everything that it sent is processed."""
        return self._child is None

    def _next(self) -> JournalMovie | None:
        """Movie to start next, by ``watch.backlog``."""
        policy = self._config.watch.backlog
        latest = policy == "latest" or (policy == "alternate" and not self._took_latest)
        movie = self._journal.movies.next_ready(latest=latest)
        if movie is not None and not (is_suspect(movie) and self._in_hand):
            self._took_latest = latest
        return movie

    def _memory(self) -> int | None:
        """Memory that the worker uses, bytes; looked at once a second, None in between and where it is unknown."""
        if self._child is None or self._clock.monotonic() - self._memory_seen < _LOOK_AT_MEMORY_S:
            return None
        self._memory_seen = self._clock.monotonic()
        return resident_bytes(self._child.pid)

    def _handle(self, message: object) -> None:
        match message:
            case Up():
                self.device = message.device
            case Progress():
                task = self._in_hand.get((message.movie_id, message.revision))
                if task is not None:
                    task.begun, task.stage = True, message.stage
            case Finished():
                self._in_hand.pop((message.record.movie_id, message.record.revision), None)
                self._fruitless = 0
                self._finished(message)
            case Failed():
                self._in_hand.pop((message.movie_id, message.revision), None)
                self._fruitless = 0
                self._failed(message)
            case Returned():
                self._in_hand.pop((message.movie_id, message.revision), None)
                self._journal.release(message.movie_id, message.revision)
            case _:
                raise ServiceError("unexpected message from the worker", found=type(message).__name__)

    def _bury(self, ending: str) -> None:
        """Count the death against what was begun, return the rest to the queue, make way for another worker."""
        if self._child is None:
            return
        was_up = bool(self.device)
        self._child.stop(0.0)
        self._child = None
        self.device = ""
        given_up = []
        for (movie_id, revision), task in self._in_hand.items():
            if not task.begun:
                self._journal.release(movie_id, revision)
                continue
            reason = Reason(
                error="WorkerDied",
                message=f"processing broke off in stage {task.stage}: the worker process ended ({ending})",
                hint=f"it is tried once more, alone; if it was given up: streamer movies retry {movie_id}",
            )
            if self._journal.worker_died(movie_id, revision, reason) == "quarantined":
                given_up.append(movie_id)
        self._in_hand.clear()
        if self._finishing:
            return
        self._restarted(ending, given_up)
        if ending == _ENDED_BY_CONFIG:
            raise ConfigError(
                "the worker cannot start with this configuration; see its messages above",
                where="worker",
                hint="correct the setting that they name; streamer check-config tries it",
            )
        self._fruitless += 1
        if self._fruitless > _STARTS_IN_A_ROW:
            raise DeviceError(
                "the worker process fails to start" if not was_up else "workers crash without finishing a movie",
                where="worker",
                found=ending,
                hint="see its messages above; streamer process MOVIE shows the same in the foreground",
            )
