"""``micrographs.star`` of each session, rewritten as movies finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.runtime.clock import SYSTEM
from streamer.writers.atomic import write_atomically
from streamer.writers.star import END_OF_TABLE, micrograph_line, micrograph_row, micrographs_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.movie_record import MovieRecord
    from streamer.runtime.clock import Clock
    from streamer.writers.star import Optics

_LEAST_INTERVAL_S = 2.0
_WRITING_SHARE = 0.05
"""Share of the time that rewriting a long table may take."""


class MicrographTables:
    """The tables of the sessions that movies are added to, with the newest revision of each movie.

    Parameters
    ----------
    directory_of : where a session's table is written.
    finished : records of a session's movies that are done, oldest first; called when the session is first added to.
    """

    def __init__(
        self,
        directory_of: Callable[[str], Path],
        finished: Callable[[str], Iterable[MovieRecord]],
        clock: Clock = SYSTEM,
    ) -> None:
        self._directory_of, self._finished, self._clock = directory_of, finished, clock
        self._lines: dict[str, dict[str, bytes | None]] = {}
        self._groups: dict[str, dict[Optics, int]] = {}
        """Numbers of a session's optics groups; one that no line uses any more does no harm."""
        self._changed: set[str] = set()
        self._next_write = -float("inf")

    def resume(self, session: str) -> None:
        """Make sure that everything finished before a kill is in the table."""
        self._lines[session] = {record.movie_id: self._line(record) for record in self._finished(session)}
        if self._lines[session]:
            self._changed.add(session)

    def add(self, record: MovieRecord) -> None:
        """Add a finished movie."""
        if record.session not in self._lines:
            self.resume(record.session)
        self._lines[record.session][record.movie_id] = self._line(record)
        self._changed.add(record.session)

    def write(self, *, now: bool = False) -> bool:
        """Rewrite the tables that changed, at a limited rate unless ``now``; returns whether it did.

        Raises OutputError where it could not, and tries again later.
        """
        began = self._clock.monotonic()
        if not self._changed or (not now and began < self._next_write):
            return False
        try:
            for session in sorted(self._changed):
                self._write(session)
                self._changed.discard(session)
        finally:
            took = self._clock.monotonic() - began
            self._next_write = began + max(_LEAST_INTERVAL_S, took / _WRITING_SHARE)
        return True

    def _line(self, record: MovieRecord) -> bytes | None:
        """The movie's line, written once; None where it cannot be in the table."""
        row = micrograph_row(record)
        if row is None:
            return None
        groups = self._groups.setdefault(record.session, {})
        return micrograph_line(row, groups.setdefault(row.optics, len(groups) + 1)).encode()

    def _write(self, session: str) -> None:
        lines = self._lines[session].values()
        known = [line for line in lines if line is not None]
        head = micrographs_head(self._groups.get(session, {}), left_out=len(lines) - len(known))
        whole = [head.encode(), *known, END_OF_TABLE.encode()]
        write_atomically(self._directory_of(session) / "micrographs.star", lambda file: file.writelines(whole))
