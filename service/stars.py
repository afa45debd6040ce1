"""``micrographs.star`` of each session, rewritten as movies finish."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from streamer.writers.atomic import write_atomically
from streamer.writers.star import MicrographRow, micrograph_row, micrographs_star

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.published import MovieRecord

_LEAST_INTERVAL_S = 2.0


class MicrographTables:
    """Rows of all sessions, the newest revision of each movie."""

    def __init__(self, directory_of: Callable[[str], Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._directory_of, self._clock = directory_of, clock
        self._rows: dict[str, dict[str, MicrographRow | None]] = {}
        self._changed: set[str] = set()
        self._written = -_LEAST_INTERVAL_S

    def load(self, records: Iterable[MovieRecord]) -> None:
        """Take over what was finished before; nothing is written for it."""
        for record in records:
            self._rows.setdefault(record.session, {})[record.movie_id] = micrograph_row(record)

    def add(self, record: MovieRecord) -> None:
        """Add a finished movie."""
        self.load([record])
        self._changed.add(record.session)

    def write(self, *, now: bool = False) -> None:
        """Rewrite the tables that changed, not more often than every two seconds unless told to."""
        if not self._changed or (not now and self._clock() - self._written < _LEAST_INTERVAL_S):
            return
        for session in sorted(self._changed):
            rows = self._rows[session].values()
            known = [row for row in rows if row is not None]
            text = micrographs_star(known, left_out=len(rows) - len(known))
            write_atomically(self._directory_of(session) / "micrographs.star", text.encode())
        self._changed.clear()
        self._written = self._clock()
