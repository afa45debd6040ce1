"""What can be asked of the journal about its movies; nothing here changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.journal import movie_table
from service.journal.event_log import EventLog, utc_seconds
from service.journal.movie_table import JournalMovie, journal_movie
from service.wire.messages import NO_VERSION, SERVES_AFTER, parse_event
from streamer import jsontext
from streamer.movie_record import DENOISER, MovieRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.records import FileIdentity

READY, STARTED = "ready", "started"
PENDING = (READY, STARTED)
BACKOFF_S = (5.0, 30.0, 120.0)

_MAY_START = "SELECT * FROM movies WHERE state = ? AND (not_before <= ? OR not_before > ?)"
_NEXT_OLDEST, _NEXT_LATEST = f"{_MAY_START} ORDER BY number LIMIT 1", f"{_MAY_START} ORDER BY number DESC LIMIT 1"


class MovieViews(EventLog):
    """States of all movies of an instance, to read."""

    def next_ready(self, *, latest: bool = False) -> JournalMovie | None:
        """Oldest movie that may be started now, or the latest one."""
        now = self._clock()
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
        return None if row is None else movie_table.relative_of(row)

    def with_shed(self) -> list[str]:
        """Ids of the movies that are done without what was shed under load, oldest first."""
        rows = self._database.rows("SELECT movie_id FROM movies WHERE state = 'done' AND shed != '' ORDER BY number")
        return [row["movie_id"] for row in rows]

    def movie(self, movie_id: str, revision: int | None = None) -> JournalMovie | None:
        """One movie, its latest revision unless one is named."""
        row = self._database.row(
            "SELECT * FROM movies WHERE movie_id = ? AND (? IS NULL OR revision = ?) ORDER BY revision DESC",
            (movie_id, revision, revision),
        )
        return None if row is None else journal_movie(row)

    def movies(self, session: str | None = None, state: str | None = None, limit: int = 100) -> list[JournalMovie]:
        """Movies of a session and state, newest first."""
        rows = self._database.rows(
            "SELECT * FROM movies WHERE (? IS NULL OR session = ?) AND (? IS NULL OR state = ?)"
            " ORDER BY number DESC LIMIT ?",
            (session, session, state, state, limit),
        )
        return [journal_movie(row) for row in rows]

    def every(self, state: str | None = None) -> Iterator[JournalMovie]:
        """All revisions of all movies, oldest first, however many there are."""
        return map(journal_movie, movie_table.every_row(self._database, state=state))

    def done(self, session: str) -> Iterator[MovieRecord]:
        """Records of a session's movies that are done, oldest first."""
        for row in movie_table.every_row(self._database, session, "done"):
            yield jsontext.decode(row["record"], MovieRecord)

    def identities(self) -> dict[str, FileIdentity]:
        """List what the watcher need not report again: path below the root, and the identity seen.

        Vanished files are not among them: one that comes back is news.
        """
        rows = self._database.rows(
            "SELECT relative, identity FROM movies WHERE state NOT IN ('superseded', 'vanished')"
        )
        return {movie_table.relative_of(row): movie_table.identity_of(row) for row in rows}

    def counts_by_state(self) -> dict[str, int]:
        """How many revisions are in each state."""
        rows = self._database.rows("SELECT state, count(*) AS n FROM movies GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def pending(self) -> int:
        """Movies that are ready or started."""
        counts = self.counts_by_state()
        return sum(counts.get(state, 0) for state in PENDING)

    def oldest_pending(self) -> float | None:
        """UTC seconds at which the pending movie that waits longest was detected: by time, as clocks are set back."""
        row = self._database.row("SELECT min(detected_utc) AS detected FROM movies WHERE state IN (?, ?)", PENDING)
        return None if row is None or row["detected"] is None else utc_seconds(row["detected"])

    def serving_version(self, session: str) -> tuple[str | None, str | None]:
        """Version of the denoiser that was made to serve last, and by what; (None, None) where none ever was."""
        for row in self._database.rows(
            "SELECT body FROM events WHERE kind = 'model' AND session = ? ORDER BY seq DESC", (session,)
        ):
            body = parse_event(row["body"]).body
            if body.get("network", DENOISER) == DENOISER and body.get("result") in SERVES_AFTER:
                return (None if body["version"] == NO_VERSION else body["version"]), body["result"]
        return None, None
