"""Queries about the journal's movies; nothing here changes it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from service.journal.movie_names import KnownMovie, movie_named
from service.journal.movie_table import PENDING, READY, JournalMovie, identity_of, journal_movie, path_of, relative_of
from service.wire.messages import decode_json
from streamer import jsontext
from streamer.errors import NotAMovie, Reason, ServiceError
from streamer.movie_record import MovieRecord
from streamer.runtime.clock import utc_seconds

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from service.journal.database import Database
    from streamer.records import FileIdentity
    from streamer.runtime.clock import Clock

BACKOFF_S = (5.0, 30.0, 120.0)
_PORTION = 500

_MAY_START = "SELECT * FROM movies WHERE state = ? AND (not_before <= ? OR not_before > ?)"
_NEXT_OLDEST, _NEXT_LATEST = f"{_MAY_START} ORDER BY number LIMIT 1", f"{_MAY_START} ORDER BY number DESC LIMIT 1"
# One state at a time: then the index answers without counting. A movie that was processed by hand was never detected.
_LONGEST_WAIT = "SELECT min(detected_utc) AS detected FROM movies WHERE state = ? AND detected_utc > ''"

_NEWEST_REVISION = "SELECT * FROM movies WHERE movie_id = ? ORDER BY revision DESC LIMIT 1"


class MovieQueries:
    """States of all movies of an instance, read-only."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def next_ready(self, *, latest: bool = False) -> JournalMovie | None:
        """Oldest movie that may be started now, or the latest one."""
        now = self._clock.wall()
        row = self._database.row(
            _NEXT_LATEST if latest else _NEXT_OLDEST,
            # A retry can only be due within the longest delay: later than that, the clock was set back.
            (READY, now, now + BACKOFF_S[-1]),
        )
        return None if row is None else journal_movie(row)

    def twin_of(self, movie_id: str, fingerprint: str) -> str | None:
        """Path of another movie with the same size and ends that is done or will be; None: there is none."""
        row = self._database.row(
            "SELECT relative FROM movies WHERE fingerprint = ? AND movie_id != ? AND state IN (?, ?, 'done')",
            (fingerprint, movie_id, *PENDING),
        )
        return None if row is None else relative_of(row)

    def named(self, name: str) -> JournalMovie:
        """Newest revision of the movie that is meant by an id, path, file name or hole.

        Raises
        ------
        UsageError
            There is none, or there are several.
        """
        row = self._database.row(_NEWEST_REVISION, (name.lower(),))
        if row is None:
            rows = self._database.rows("SELECT movie_id, relative, path FROM movies ORDER BY number")
            # of each movie the newest revision: a root may have been moved since the first
            known = {row["movie_id"]: KnownMovie(row["movie_id"], relative_of(row), path_of(row)) for row in rows}
            meant = movie_named(name, list(known.values())[::-1])
            row = self._database.row(_NEWEST_REVISION, (meant.movie_id,))
        if row is None:
            raise ServiceError("the journal has lost a movie while it was read", where=name, hint="try again")
        return journal_movie(row)

    def with_shed(self) -> list[str]:
        """Ids of done movies that lack what was shed under load, oldest first."""
        rows = self._database.rows("SELECT movie_id FROM movies WHERE state = 'done' AND shed != '' ORDER BY number")
        return [row["movie_id"] for row in rows]

    def newest(self, session: str | None = None, state: str | None = None, limit: int = 100) -> list[JournalMovie]:
        """Movies of a session and state, newest first."""
        rows = self._database.rows(
            "SELECT * FROM movies WHERE (? IS NULL OR session = ?) AND (? IS NULL OR state = ?)"
            " ORDER BY number DESC LIMIT ?",
            (session, session, state, state, limit),
        )
        return [journal_movie(row) for row in rows]

    def latest_session(self) -> str | None:
        """Session that was collected last: of the newest first revision of a movie; later ones may be any's."""
        row = self._database.row(
            "SELECT session FROM movies WHERE supersedes IS NULL AND state != 'skipped' ORDER BY number DESC LIMIT 1"
        )
        return None if row is None else str(row["session"])

    def every(self, state: str | None = None) -> Iterator[JournalMovie]:
        """All revisions of all movies, oldest first, however many there are."""
        return map(journal_movie, self._rows(state=state))

    def done(self, session: str) -> Iterator[MovieRecord]:
        """Records of a session's movies that are done, oldest first."""
        for row in self._rows(session, "done"):
            yield jsontext.decode(row["record"], MovieRecord)

    def identities(self) -> dict[str, FileIdentity]:
        """List what the watcher need not report again: path below the root, and the identity seen.

        Vanished files are not among them: one that comes back is news.
        """
        rows = self._database.rows(
            "SELECT relative, identity FROM movies WHERE state NOT IN ('superseded', 'vanished')"
        )
        return {relative_of(row): identity_of(row) for row in rows}

    def counts_by_state(self) -> dict[str, int]:
        """How many revisions are in each state."""
        rows = self._database.rows("SELECT state, count(*) AS n FROM movies GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def no_movies(self) -> dict[str, int]:
        """How many files were skipped because they are no movies, by what they are."""
        counted: Counter[str] = Counter()
        for row in self._database.rows("SELECT reason FROM movies WHERE state = 'skipped' AND reason IS NOT NULL"):
            reason = msgspec.convert(decode_json(row["reason"]), Reason)
            if reason.error == NotAMovie.__name__:
                counted[reason.found] += 1
        return dict(counted)

    def pending(self) -> int:
        """Movies that are ready or started."""
        counts = self.counts_by_state()
        return sum(counts.get(state, 0) for state in PENDING)

    def oldest_pending(self) -> float | None:
        """UTC seconds when the longest waiting pending movie was detected: by time, as clocks are set back."""
        rows = [self._database.row(_LONGEST_WAIT, (state,)) for state in PENDING]
        times = [row["detected"] for row in rows if row is not None and row["detected"] is not None]
        return utc_seconds(min(times)) if times else None

    def _rows(self, session: str | None = None, state: str | None = None) -> Iterator[sqlite3.Row]:
        """Rows of a session and state, oldest first, read in portions: there may be very many."""
        query = (
            "SELECT * FROM movies WHERE (:session IS NULL OR session = :session) AND (:state IS NULL OR state = :state)"
            " AND number > :last ORDER BY number LIMIT :portion"
        )
        last = 0
        while rows := self._database.rows(
            query, {"session": session, "state": state, "last": last, "portion": _PORTION}
        ):
            yield from rows
            last = rows[-1]["number"]
