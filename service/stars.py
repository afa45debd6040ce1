"""``micrographs.star`` of each session, rewritten as movies finish."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from streamer.writers.atomic import write_atomically
from streamer.writers.star import MicrographRow, Optics, micrograph_row, micrographs_star

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from streamer.published import MovieRecord

T = TypeVar("T", bound=Hashable)

_MOTION = struct.Struct("3d")
_LEAST_INTERVAL_S = 2.0
_WRITING_SHARE = 0.05
"""Rewriting a long table may take this part of the time."""


class _Packed(NamedTuple):
    """A row in few bytes: a session has tens of thousands."""

    data: bytes
    """Three doubles (motion in total, early, late), then what the four paths begin with."""
    ends: tuple[str, ...]
    optics: Optics


class MicrographTables:
    """Rows of the sessions that movies are added to, the newest revision of each movie.

    Parameters
    ----------
    directory_of : where a session's table is written.
    finished : records of a session's movies that are done, oldest first; asked when the session is first added to.
    """

    def __init__(
        self,
        directory_of: Callable[[str], Path],
        finished: Callable[[str], Iterable[MovieRecord]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory_of, self._finished, self._clock = directory_of, finished, clock
        self._rows: dict[str, dict[str, _Packed | None]] = {}
        self._shared: dict[Hashable, Hashable] = {}
        """Optics and ends of names, which are the same for thousands of rows: one object for each."""
        self._changed: set[str] = set()
        self._next_write = -float("inf")

    def resume(self, session: str) -> None:
        """See to it that all that was finished before a kill stands in the table."""
        self._rows[session] = {r.movie_id: self._packed(micrograph_row(r)) for r in self._finished(session)}
        if self._rows[session]:
            self._changed.add(session)

    def add(self, record: MovieRecord) -> None:
        """Add a finished movie."""
        if record.session not in self._rows:
            self.resume(record.session)
        self._rows[record.session][record.movie_id] = self._packed(micrograph_row(record))
        self._changed.add(record.session)

    def write(self, *, now: bool = False) -> bool:
        """Rewrite the tables that changed, seldom enough unless told to; returns whether it did.

        Raises OutputError where it could not, and tries again later.
        """
        began = self._clock()
        if not self._changed or (not now and began < self._next_write):
            return False
        try:
            for session in sorted(self._changed):
                rows = self._rows[session].values()
                known = [_unpacked(row) for row in rows if row is not None]
                text = micrographs_star(known, left_out=len(rows) - len(known))
                write_atomically(self._directory_of(session) / "micrographs.star", text.encode())
                self._changed.discard(session)
        finally:
            took = self._clock() - began
            self._next_write = began + max(_LEAST_INTERVAL_S, took / _WRITING_SHARE)
        return True

    def _packed(self, row: MicrographRow | None) -> _Packed | None:
        if row is None:
            return None
        paths = row.micrograph, row.motion, row.even, row.odd
        stem = os.path.commonprefix(paths)  # noqa: RUF071 - of letters is what is wanted
        ends = self._one(tuple(path[len(stem) :] for path in paths))
        figures = row.total_motion_angstrom, row.early_motion_angstrom, row.late_motion_angstrom
        return _Packed(_MOTION.pack(*figures) + stem.encode(), ends, self._one(row.optics))

    def _one(self, value: T) -> T:
        return cast("T", self._shared.setdefault(value, value))


def _unpacked(packed: _Packed) -> MicrographRow:
    total, early, late = _MOTION.unpack_from(packed.data)
    stem = packed.data[_MOTION.size :].decode()
    micrograph, motion, even, odd = (stem + end for end in packed.ends)
    return MicrographRow(
        micrograph=micrograph,
        motion=motion,
        even=even,
        odd=odd,
        optics=packed.optics,
        total_motion_angstrom=total,
        early_motion_angstrom=early,
        late_motion_angstrom=late,
    )
