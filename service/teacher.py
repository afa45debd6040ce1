"""The trainer from the daemon's side: one process for the session that is being collected."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from service.pipes import Begin, Candidate, Child, Learn, Pause, Serving, Training, Up

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.config import Config
    from service.layout import Layout

_log = logging.getLogger(__name__)

_NICENESS = 10
_RESTART_AFTER_S = 30.0


class Teacher:
    """Keeps a trainer for one session, feeds it, and hears its candidates.

    Parameters
    ----------
    lessons : gives what a new trainer has to be told of a session: its finished movies, oldest first.
    candidate : called with what the gate decided.
    died : called with how a trainer ended that should not have.
    """

    def __init__(
        self,
        config: Config,
        layout: Layout,
        *,
        lessons: Callable[[str], list[Learn]],
        candidate: Callable[[str, Candidate], None],
        died: Callable[[str], None],
    ) -> None:
        self._config, self._layout = config, layout
        self._lessons, self._candidate, self._died = lessons, candidate, died
        self._child: Child | None = None
        self._ended = -_RESTART_AFTER_S
        self._paused = False
        self.session = ""
        self.is_training = False

    def fileno(self) -> int | None:
        """Descriptor to wait for."""
        return None if self._child is None else self._child.fileno()

    @property
    def pid(self) -> int | None:
        """Process id of the trainer."""
        return None if self._child is None else self._child.pid

    def learn(self, session: str, lesson: Learn) -> None:
        """Tell the trainer of a finished movie; a new session gets a new trainer."""
        if not self._config.session_model.enabled:
            return
        if session != self.session:
            self.close()
            self.session = session
            self._start()
        elif self._child is not None:
            self._child.send(lesson)

    def attend(self, pending: int) -> None:
        """Take what the trainer sent; pause it while movies wait; replace it some time after it died."""
        if self._child is None:
            if self.session and time.monotonic() - self._ended >= _RESTART_AFTER_S:
                self._start()
            return
        paused = pending > self._config.session_model.pause_pending
        if paused != self._paused:
            self._paused = paused
            self._child.send(Pause(paused=paused))
        alive = self._child.alive
        for message in self._child.receive():
            match message:
                case Candidate():
                    self._candidate(self.session, message)
                case Training():
                    self.is_training = message.active
                case Up():
                    _log.info("trainer %d is up", self._child.pid)
        if not alive:
            self._ended, self.is_training = time.monotonic(), False
            ending = self._child.ending
            self._child.stop(0.0)
            self._child = None
            self._died(ending)

    def serving(self, session: str, version: str | None) -> None:
        """Tell the trainer that the operator has chosen another version."""
        if self._child is not None and session == self.session:
            self._child.send(Serving(version=version))

    def close(self) -> None:
        """End the trainer at once: what it stores is whole or not there."""
        if self._child is not None:
            self._child.kill()
            self._child.stop(0.0)
            self._child = None
        self.is_training = self._paused = False

    def _start(self) -> None:
        begin = Begin(config=self._config, session_directory=str(self._layout.session_state(self.session)))
        threads = self._config.session_model.threads
        self._child = Child("service.trainer", begin, threads=threads, niceness=_NICENESS)
        self._paused = False
        for lesson in self._lessons(self.session):
            self._child.send(lesson)
