"""The journal: which movies there are, what became of each, and the event that told the world.

Every change of state is one transaction that is on disk before the call returns; a final state and its event
are the same transaction. An attempt is counted *before* the work, so that a movie that kills its worker, or
the daemon, stops by itself. Times on disk are wall-clock UTC; only the delay of a retry is decided by them.

ready -> started -> done | failed | ready again (retry) | quarantined; also skipped, vanished, incomplete,
and superseded once the same path holds another movie.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from service.journal import event_log, movie_table
from service.journal.database import Database, Migration
from service.journal.event_log import utc_text
from service.journal.movie_queries import BACKOFF_S, PENDING, READY, STARTED, MovieViews
from service.journal.movie_table import (
    INTERRUPTED,
    JournalMovie,
    bare_record,
    is_same,
    journal_movie,
    known,
    latest,
    refresh,
    update,
)
from streamer import jsontext
from streamer.errors import Reason, ServiceError, UsageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

    from service.wire.messages import Event
    from streamer.movie_record import MovieRecord
    from streamer.records import Movie

MAX_ATTEMPTS = 3
MAX_DEATHS = 2

FINAL = ("done", "failed", "quarantined", "skipped", "vanished", "incomplete", "superseded")
REARMED = ("vanished", "incomplete")
"""Final only until the file is seen again: the same revision goes on."""
_AFRESH = {"attempt": 0, "deaths": 0, "retries": 0, "not_before": 0.0, "complete_utc": ""}

MIGRATIONS: tuple[Migration, ...] = ((*event_log.SCHEMA, *movie_table.SCHEMA), movie_table.SCHEMA_2, event_log.SCHEMA_3)


class Journal(MovieViews):
    """States of all movies of an instance, and the events. One writer, one thread."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        instance: str = "default",
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
        on_commit: Callable[[float], None] = lambda _: None,
    ) -> Journal:
        """Open or create the file; ``ServiceError`` where it is damaged or newer than this program."""
        database = Database.open(Path(path), MIGRATIONS, read_only=read_only, on_commit=on_commit)
        try:
            return cls(database, instance, clock)
        except BaseException:
            database.close()
            raise

    # ------------------------------------------------------------------------------------------- arrivals

    def add_ready(
        self,
        movie: Movie,
        detected_utc: str,
        ready_utc: str,
        complete_utc: str = "",
        fingerprint: str | None = None,
    ) -> JournalMovie:
        """Take in a movie that is whole, unless it is known as it is.

        The same path with other content is a new revision; the old one is superseded at once, by an event.
        """
        times = {"detected_utc": detected_utc, "ready_utc": ready_utc, "complete_utc": complete_utc}
        with self._database.transaction() as connection:
            old = latest(connection, movie.movie_id)
            if old is not None and _is_rearmed(old, movie):
                row = refresh(connection, old, movie)
                row = update(connection, row, state=READY, **_AFRESH | times)
            elif old is None or not is_same(old, movie):
                row = self._insert(connection, old, movie, **times)
            elif old["state"] == READY:
                row = refresh(connection, old, movie)
            else:
                # Known as it is; only what the file system calls it may have changed.
                row = update(connection, old, identity=jsontext.encode(movie.identity))
            if fingerprint is not None:
                row = update(connection, row, fingerprint=fingerprint)
            return journal_movie(row)

    def restore(self, movies: Iterable[tuple[Movie, MovieRecord]]) -> int:
        """Take in what sidecars say is done, each movie's revisions in order, all or nothing. Returns how many."""
        count = 0
        with self._database.transaction() as connection:
            for movie, record in movies:
                old = latest(connection, movie.movie_id)
                if old is not None:
                    self._finish(connection, old, bare_record(old, "superseded"))
                row = movie_table.insert(
                    connection,
                    movie,
                    state=READY,
                    revision=movie.revision,
                    supersedes=record.supersedes,
                    detected_utc=record.times.detected or "",
                    ready_utc=record.times.ready,
                    complete_utc=record.times.complete or "",
                )
                self._finish(connection, row, record)
                count += 1
        return count

    def add_final(self, movie: Movie, record: MovieRecord, detected_utc: str) -> Event | None:
        """End a movie that was not started: incomplete, vanished, skipped or failed on arrival.

        None: nothing new, because it is at work, or already ended as it is.
        """
        with self._database.transaction() as connection:
            old = latest(connection, movie.movie_id)
            if old is not None and (old["state"] == READY or _is_rearmed(old, movie)):
                if old["state"] in REARMED and old["state"] == record.state and is_same(old, movie):
                    return None
                row = refresh(connection, old, movie)
            elif old is None or not is_same(old, movie):
                row = self._insert(connection, old, movie, detected_utc=detected_utc)
            else:
                return None
            return self._finish(connection, row, record)

    # ----------------------------------------------------------------------------------------------- work

    def start(self, movie_id: str, revision: int) -> int:
        """Count the attempt and commit it, before a worker sees the movie. Returns its number, from 1."""
        with self._database.transaction() as connection:
            row = known(connection, movie_id, revision)
            if row["state"] != READY:
                raise ServiceError("a movie was started twice", where=movie_id, expected=READY, found=row["state"])
            attempt: int = row["attempt"] + 1
            update(connection, row, state=STARTED, attempt=attempt, started_utc=utc_text(self._clock()))
            return attempt

    def finish(self, record: MovieRecord) -> Event | None:
        """Done, failed or any other final state, with its event, in one transaction.

        What the journal knows better (supersedes, missing times) is filled in. None: the result no longer
        counts, because the movie was superseded or skipped meanwhile.
        """
        with self._database.transaction() as connection:
            row = known(connection, record.movie_id, record.revision)
            return self._finish(connection, row, record) if row["state"] in PENDING else None

    def retry_later(self, movie_id: str, revision: int, reason: Reason, *, counted: bool = True) -> str:
        """Try again after 5, 30, then 120 s.

        Returns the new state: ready, or quarantined after three attempts.

        Parameters
        ----------
        counted : False where the movie is not to blame (a full disk): such retries never end.
        """
        with self._database.transaction() as connection:
            row = known(connection, movie_id, revision)
            delay = BACKOFF_S[min(row["retries"], len(BACKOFF_S) - 1)]
            return self._again(
                connection,
                row,
                reason,
                attempt=row["attempt"] - (0 if counted else 1),
                retries=row["retries"] + 1,
                not_before=self._clock() + delay,
            )

    def worker_died(self, movie_id: str, revision: int, reason: Reason) -> str:
        """Count a worker that did not come back.

        Returns the new state: ready, or quarantined at the second death or after three attempts.
        """
        with self._database.transaction() as connection:
            row = known(connection, movie_id, revision)
            return self._again(connection, row, reason, deaths=row["deaths"] + 1)

    def release(self, movie_id: str, revision: int) -> str:
        """Give a started movie back untouched, because the daemon stops; the attempt does not count."""
        with self._database.transaction() as connection:
            row = known(connection, movie_id, revision)
            return self._again(connection, row, None, attempt=row["attempt"] - 1)

    def requeue_started(self, *, counted: bool = True) -> int:
        """Make ready again what was at work when the daemon died, or had to stop: then no attempt is counted."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT * FROM movies WHERE state = ? ORDER BY number", (STARTED,)).fetchall()
            reason = Reason(error=INTERRUPTED, message="the daemon stopped while this movie was at work")
            for row in rows:
                self._again(
                    connection, row, reason if counted else None, attempt=row["attempt"] - (0 if counted else 1)
                )
            return len(rows)

    # ------------------------------------------------------------------------------------------- operator

    def retry(self, movie_id: str) -> JournalMovie:
        """Process it once more: the same revision, or a new one that supersedes a done one."""
        with self._database.transaction() as connection:
            row = known(connection, movie_id)
            if row["state"] in PENDING:
                raise UsageError("the movie is waiting or at work already", where=movie_id, found=row["state"])
            if row["state"] == "done":
                movie = journal_movie(row).movie
                times = {"detected_utc": row["detected_utc"], "ready_utc": utc_text(self._clock())}
                row = self._insert(connection, row, movie, **times)
            else:
                row = update(connection, row, state=READY, **_AFRESH)
            return journal_movie(row)

    def skip(self, movie_id: str, reason: str) -> Event:
        """Leave it out; a result that is still being computed will not count."""
        with self._database.transaction() as connection:
            row = known(connection, movie_id)
            if row["state"] in ("done", "skipped"):
                raise UsageError("the movie cannot be skipped any more", where=movie_id, found=row["state"])
            why = Reason(error="Skipped", message=reason)
            return self._finish(connection, row, bare_record(row, "skipped", why))

    # ------------------------------------------------------------------------------------------- changing

    def _insert(
        self,
        connection: sqlite3.Connection,
        old: sqlite3.Row | None,
        movie: Movie,
        **times: str,
    ) -> sqlite3.Row:
        """Add a first revision, or the next one; the one before is superseded and the world is told."""
        if old is not None:
            self._finish(connection, old, bare_record(old, "superseded"))
        return movie_table.insert(
            connection,
            movie,
            state=READY,
            revision=1 if old is None else old["revision"] + 1,
            supersedes=None if old is None else old["revision"],
            **times,
        )

    def _finish(self, connection: sqlite3.Connection, row: sqlite3.Row, record: MovieRecord) -> Event:
        """Set final state and record, append the event; the caller's transaction makes them one."""
        if record.state not in FINAL:
            raise ValueError(f"{record.state!r} is not a final state")
        times = record.times
        record = dataclasses.replace(
            record,
            session=row["session"],
            revision=row["revision"],
            supersedes=row["supersedes"],
            times=dataclasses.replace(
                times,
                detected=times.detected or row["detected_utc"],
                ready=times.ready or row["ready_utc"],
                started=times.started or row["started_utc"],
                done=times.done or utc_text(self._clock()),
            ),
            path=movie_table.relative_of(row),
        )
        event = self._append(connection, record, record.session)
        reason = None if record.reason is None else jsontext.encode(record.reason)
        if record.state == "superseded":
            # The record of what was made of it stays: the files are still there.
            update(connection, row, state=record.state)
        else:
            row = update(connection, row, state=record.state, record=jsontext.encode(record), reason=reason)
            update(
                connection,
                row,
                shed=" ".join(record.shed),
                fingerprint=record.source.fingerprint if record.source else row["fingerprint"],
            )
        return event

    def _again(self, connection: sqlite3.Connection, row: sqlite3.Row, reason: Reason | None, **columns: object) -> str:
        """Put back to ready what is at work, unless it has had its chances."""
        if row["state"] != STARTED:
            return str(row["state"])
        why = None if reason is None else jsontext.encode(reason)
        row = update(connection, row, **columns, state=READY, reason=why)
        if row["attempt"] >= MAX_ATTEMPTS or row["deaths"] >= MAX_DEATHS:
            self._finish(connection, row, bare_record(row, "quarantined", reason))
            return "quarantined"
        return READY


def _is_rearmed(row: sqlite3.Row, movie: Movie) -> bool:
    """Whether a final state ends because the file was seen again.

    A failed movie is tried again after a change that leaves the content alone: it may have been unreadable.
    """
    if row["state"] == "failed":
        return is_same(row, movie) and movie_table.identity_of(row) != movie.identity
    return row["state"] in REARMED
