"""How long each stage of a movie took. The only part of a record that differs between two runs."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamer.movie_record import Times
from streamer.runtime.clock import SYSTEM, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamer.runtime.clock import Clock


class Stopwatch:
    """``with stopwatch("align"):`` times a stage.

    Parameters
    ----------
    known : when the movie was detected, ready and started.
    notify : called with a stage's name as it begins; shows the daemon that work continues.
    """

    def __init__(
        self,
        known: Times | None = None,
        notify: Callable[[str], None] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._known, self._notify, self._clock = known or Times(), notify, clock
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage."""
        self._notify(stage)
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self._stages[stage] = round(self._stages.get(stage, 0.0) + self._clock.monotonic() - began, 4)

    def times(self) -> Times:
        """All times so far; done is now."""
        return dataclasses.replace(self._known, done=utc_text(self._clock.wall()), stage_s=dict(self._stages))
