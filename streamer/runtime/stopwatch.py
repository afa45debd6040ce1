"""How long each stage of a movie took. The only part of a record that differs between two runs."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from streamer.movie_record import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def utc_now() -> str:
    """Now, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Stopwatch:
    """``with stopwatch("align"):`` times a stage.

    Parameters
    ----------
    known : when the movie was detected, ready and started.
    notify : called with a stage's name as it begins; tells the daemon that work goes on.
    """

    def __init__(self, known: Times | None = None, notify: Callable[[str], None] = lambda _: None) -> None:
        self._known, self._notify = known or Times(), notify
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage."""
        self._notify(stage)
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages[stage] = round(self._stages.get(stage, 0.0) + time.perf_counter() - began, 4)

    def times(self) -> Times:
        """All times so far; done is now."""
        return dataclasses.replace(self._known, done=utc_now(), stage_s=dict(self._stages))
