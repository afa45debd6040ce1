"""The trainer from the daemon's side: one process for the session that is being collected."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from models.versions.roles import ROLES, Roles
from models.versions.store import ModelStore
from service.daemon.group_space import GroupSpace
from service.named_versions import base_of, check_versions
from service.processes.messages import Begin, Candidate, Learn, Pause, Serving, Training, Up
from service.processes.pipes import Child
from streamer.errors import ModelError
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from service.config import Config
    from service.layout import Layout
    from streamer.runtime.clock import Clock

_log = logging.getLogger(__name__)

_NICENESS = 10
_START_EVERY_S = 30.0
_TURN_S = 120.0
"""Where sessions alternate, each keeps the trainer at least this long."""


def what_to_learn(layout: Layout, movie_id: str) -> Learn | None:
    """What the trainer needs to know of a finished movie, if its sums still exist."""
    groups, training_data = layout.groups(movie_id), layout.training_data(movie_id)
    if not groups.is_file():
        return None
    return Learn(
        movie_id=movie_id, groups=str(groups), training_data=str(training_data) if training_data.is_file() else None
    )


def forget(layout: Layout, movie_id: str) -> None:
    """Remove the sums of a movie from which there is nothing to learn."""
    for path in (layout.groups(movie_id), layout.training_data(movie_id)):
        with suppress(OSError):
            path.unlink()


class TrainerProcess:
    """Keeps a trainer for one session, feeds it, and hears its candidates.

    Parameters
    ----------
    to_learn : gives the finished movies of a specimen of a session, oldest first, for a new trainer.
    candidate : called with what the gate decided.
    died : called with how a trainer ended unexpectedly.

    Raises
    ------
    ConfigError
        If the version to start from is not there.
    """

    def __init__(
        self,
        config: Config,
        layout: Layout,
        *,
        to_learn: Callable[[str, int], list[Learn]],
        candidate: Callable[[str, Candidate], None],
        died: Callable[[str], None],
        clock: Clock = SYSTEM,
    ) -> None:
        check_versions(config)
        self._config, self._layout, self._clock = config, layout, clock
        self._to_learn, self._candidate, self._died = to_learn, candidate, died
        self._child: Child | None = None
        self._spaces: dict[Path, GroupSpace] = {}
        self._started = -_START_EVERY_S
        self._paused = False
        self.session, self.specimen = self._wanted = ("", 1)
        self._warm: str | None = None
        self.is_training = False

    def fileno(self) -> int | None:
        """Descriptor to wait for."""
        return None if self._child is None else self._child.fileno()

    @property
    def pid(self) -> int | None:
        """Process id of the trainer."""
        return None if self._child is None else self._child.pid

    def learn(self, session: str, movie: Learn, specimen: int = 1) -> None:
        """Pass a finished movie to the trainer; a new session and a new specimen get a new trainer."""
        if not self._config.session_model.enabled:
            return
        for path in filter(None, (movie.groups, movie.training_data)):
            self._make_room(session, Path(path))
        self._wanted = (session, specimen)
        if self._wanted == (self.session, self.specimen) and self._child is not None:
            self._child.send(movie)
        self._follow()

    def change_specimen(self, session: str, specimen: int, warm: str | None) -> None:
        """Restart the trainer with another specimen's movies, at once.

        Parameters
        ----------
        warm : version to continue from while nothing serves.
        """
        if session != self.session or not self._config.session_model.enabled:
            return
        self.close()
        self.specimen, self._warm = specimen, warm
        self._wanted = (session, specimen)
        self._start()

    def give_way(self) -> None:
        """Free the trainer's memory, because the worker ran out of it; another trainer is started later."""
        if self._child is not None:
            _log.warning("stopping the trainer: the worker needs the memory")
            self.close()
            self._started = self._clock.monotonic()

    def attend(self, pending: int) -> None:
        """Handle what the trainer sent; pause it while movies wait; restart it when it died, but not too often."""
        self._follow()
        if self._child is None:
            if self.session and self._clock.monotonic() - self._started >= _START_EVERY_S:
                self._start()
            return
        paused = pending > self._config.session_model.pause_pending
        if paused != self._paused:
            self._paused = paused
            self._child.send(Pause(paused=paused))
        alive = self._child.alive
        self._hear(self._child)
        if not alive:
            self.is_training = False
            ending = self._child.ending
            self._child.stop(0.0)
            self._child = None
            self._died(ending)

    def serving(self, session: str, version: str | None) -> None:
        """Inform the trainer that the operator has chosen another version."""
        if self._child is not None and session == self.session:
            self._child.send(Serving(version=version))

    def _follow(self) -> None:
        """Give the trainer to the session being collected; where two alternate, let each get something done.

        Nothing is lost by waiting: a session's finished movies are passed on when its turn comes.
        """
        if self._wanted == (self.session, self.specimen):
            return
        if self._child is not None and (self.is_training or self._clock.monotonic() - self._started < _TURN_S):
            return
        self.close()
        if self._wanted[0] != self.session:
            self._warm = None
        self.session, self.specimen = self._wanted
        self._start()

    def _hear(self, child: Child) -> None:
        for message in child.receive():
            match message:
                case Candidate():
                    self._candidate(self.session, message)
                case Training():
                    self.is_training = message.active
                case Up():
                    _log.info("trainer %d is up", child.pid)

    def close(self) -> None:
        """End the trainer at once: what it stores is complete or absent, what it has sent is handled."""
        if self._child is not None:
            self._child.kill()
            self._hear(self._child)
            self._child.stop(0.0)
            self._child = None
        self.is_training = self._paused = False

    def _start(self) -> None:
        self._started = self._clock.monotonic()
        self._keep_base()
        directory = str(self._layout.session_state(self.session))
        begin = Begin(config=self._config, session_directory=directory, specimen=self.specimen, warm=self._warm)
        threads = self._config.session_model.threads
        self._child = Child("service.processes.trainer", begin, threads=threads, niceness=_NICENESS)
        self._paused = False
        for movie in self._to_learn(self.session, self.specimen):
            self._child.send(movie)

    def _keep_base(self) -> None:
        """Make sure that the version to start from outlives the session that made it, if it is one of ours."""
        place = base_of(self._config)
        if place is not None and place.is_relative_to(self._layout.state):
            with suppress(ModelError):  # the trainer reports a version that does not exist
                ModelStore(place.parent).pin(place.name)

    def _make_room(self, session: str, groups: Path) -> None:
        """Count a movie's group sums and delete old ones beyond the limit, whatever the trainer is doing."""
        settings = self._config.session_model
        space = self._spaces.get(groups.parent)
        if space is None:
            space = self._spaces[groups.parent] = GroupSpace(groups.parent, settings.groups_limit_gb * 1e9)
        space.add(groups)
        if space.is_full:
            held_out: Set[str] = frozenset()
            with suppress(ModelError):  # the trainer reports a damaged file
                held_out = Roles(self._layout.session_state(session) / ROLES).all_held_out()
            removed = space.make_room(held_out, most_held_out=settings.most_held_out)
            _log.info("session_model.groups_limit_gb: %s of %d movies removed", groups.parent.name, len(removed))
