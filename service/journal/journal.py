"""The journal: which movies there are, what became of each, and the event that announced it.

Every change of state is one transaction that is on disk before the call returns; a final state and its event
are the same transaction. An attempt is counted *before* the work, so that a movie that kills its worker, or
the daemon, is given up in the end. Times on disk are wall-clock UTC; only the delay of a retry depends on them.

ready -> started -> done | failed | ready again (retry) | quarantined; also skipped, vanished, incomplete,
and superseded once the same path has another movie.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from service.journal import event_log, movie_table
from service.journal.database import Database, Migration
from service.journal.event_log import EventLog
from service.journal.movie_queries import BACKOFF_S, MovieQueries
from service.journal.movie_table import INTERRUPTED, PENDING, READY, STARTED, JournalMovie, MovieTable
from streamer import jsontext
from streamer.errors import NotAMovie, Reason, ServiceError, UsageError
from streamer.runtime.clock import SYSTEM, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from service.wire.messages import Event
    from streamer.movie_record import MovieRecord
    from streamer.records import Movie
    from streamer.runtime.clock import Clock

MAX_ATTEMPTS = 3
MAX_DEATHS = 2

FINAL = ("done", "failed", "quarantined", "skipped", "vanished", "incomplete", "superseded")
REARMED = ("vanished", "incomplete")
"""Final only until the file is seen again: then the same revision continues."""
_AFRESH = {"attempt": 0, "deaths": 0, "retries": 0, "not_before": 0.0, "complete_utc": ""}

MIGRATIONS: tuple[Migration, ...] = (
    (*event_log.SCHEMA, *movie_table.SCHEMA),
    movie_table.SCHEMA_2,
    (*event_log.SCHEMA_3, *movie_table.SCHEMA_3),
)


class Journal:
    """States of all movies of an instance, and the events. One writer, one thread."""

    def __init__(self, database: Database, instance: str, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._table = MovieTable(database)
        self.events = EventLog(database, instance, clock)
        self.movies = MovieQueries(database, clock)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        instance: str = "default",
        read_only: bool = False,
        clock: Clock = SYSTEM,
        on_commit: Callable[[float], None] = lambda _: None,
    ) -> Journal:
        """Open or create the file; ``ServiceError`` if it is damaged or newer than this program."""
        database = Database.open(Path(path), MIGRATIONS, read_only=read_only, on_commit=on_commit, clock=clock)
        try:
            return cls(database, instance, clock)
        except BaseException:
            database.close()
            raise

    def movie(self, movie_id: str, revision: int | None = None) -> JournalMovie | None:
        """One movie, its latest revision unless one is named."""
        return self._table.find(movie_id, revision)

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file when it looks at every page; empty if it is sound."""
        return [str(row[0]) for row in self._database.rows("PRAGMA integrity_check(20)") if row[0] != "ok"]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # ------------------------------------------------------------------------------------------- arrivals

    def add_ready(
        self,
        movie: Movie,
        detected_utc: str,
        ready_utc: str,
        complete_utc: str = "",
        fingerprint: str | None = None,
    ) -> JournalMovie:
        """Add a movie that is complete, unless it is known and unchanged.

        The same path with other content is a new revision; the old one is superseded at once, by an event.
        """
        times = {"detected_utc": detected_utc, "ready_utc": ready_utc, "complete_utc": complete_utc}
        with self._database.transaction():
            known = self._table.find(movie.movie_id)
            if known is not None and _is_rearmed(known, movie):
                added = self._table.update(self._table.refresh(known, movie), state=READY, **_AFRESH | times)
            elif known is None or not known.is_same(movie):
                added = self._insert(known, movie, **times)
            elif known.state == READY:
                added = self._table.refresh(known, movie)
            else:
                # Known and unchanged; only its identity in the file system may have changed.
                added = self._table.update(known, identity=jsontext.encode(movie.identity))
            return added if fingerprint is None else self._table.update(added, fingerprint=fingerprint)

    def restore(self, movies: Iterable[tuple[Movie, MovieRecord]]) -> int:
        """Add movies that their records say are done, revisions in order, all or nothing; returns how many."""
        count = 0
        with self._database.transaction():
            for movie, record in movies:
                known = self._table.find(movie.movie_id)
                if known is not None:
                    self._finish(known, known.bare_record("superseded"))
                added = self._table.insert(
                    movie,
                    revision=movie.revision,
                    supersedes=record.supersedes,
                    detected_utc=record.times.detected or "",
                    ready_utc=record.times.ready,
                    complete_utc=record.times.complete or "",
                )
                self._finish(added, record)
                count += 1
        return count

    def add_final(self, movie: Movie, record: MovieRecord, detected_utc: str) -> Event | None:
        """End a movie that was not started: incomplete, vanished, skipped or failed on arrival.

        None: nothing new, because it is being processed, or has ended already and is unchanged.
        """
        with self._database.transaction():
            known = self._table.find(movie.movie_id)
            if known is not None and _is_still_none(known, record):
                self._table.update(self._table.refresh(known, movie), reason=_encoded(record.reason))
                return None
            if known is not None and (known.state == READY or _is_rearmed(known, movie)):
                if known.state in REARMED and known.state == record.state and known.is_same(movie):
                    return None
                ended = self._table.refresh(known, movie)
            elif known is None or not known.is_same(movie):
                ended = self._insert(known, movie, detected_utc=detected_utc)
            else:
                return None
            return self._finish(ended, record)

    # ----------------------------------------------------------------------------------------------- work

    def start(self, movie_id: str, revision: int) -> int:
        """Count the attempt and commit it, before a worker sees the movie. Returns its number, from 1."""
        with self._database.transaction():
            movie = self._table.get(movie_id, revision)
            if movie.state != READY:
                raise ServiceError("a movie was started twice", where=movie_id, expected=READY, found=movie.state)
            attempt = movie.attempt + 1
            self._table.update(movie, state=STARTED, attempt=attempt, started_utc=self._now())
            return attempt

    def finish(self, record: MovieRecord) -> Event | None:
        """Done, failed or any other final state, with its event, in one transaction.

        What the journal knows better (supersedes, missing times) is filled in. None: the result no longer
        counts, because the movie was superseded or skipped meanwhile.
        """
        with self._database.transaction():
            movie = self._table.get(record.movie_id, record.revision)
            return self._finish(movie, record) if movie.state in PENDING else None

    def retry_later(self, movie_id: str, revision: int, reason: Reason, *, counted: bool = True) -> str:
        """Try again after 5, 30, then 120 s.

        Returns the new state: ready, or quarantined after three attempts.

        Parameters
        ----------
        counted : False where the movie is not to blame (a full disk): such retries never end.
        """
        with self._database.transaction():
            movie = self._table.get(movie_id, revision)
            delay = BACKOFF_S[min(movie.retries, len(BACKOFF_S) - 1)]
            return self._again(
                movie,
                reason,
                attempt=movie.attempt - (0 if counted else 1),
                retries=movie.retries + 1,
                not_before=self._clock.wall() + delay,
            )

    def worker_died(self, movie_id: str, revision: int, reason: Reason) -> str:
        """Count a worker that died.

        Returns the new state: ready, or quarantined at the second death or after three attempts.
        """
        with self._database.transaction():
            movie = self._table.get(movie_id, revision)
            return self._again(movie, reason, deaths=movie.deaths + 1)

    def release(self, movie_id: str, revision: int) -> str:
        """Make a started movie ready again, untouched, because the daemon stops; the attempt does not count."""
        with self._database.transaction():
            movie = self._table.get(movie_id, revision)
            return self._again(movie, None, attempt=movie.attempt - 1)

    def requeue_started(self, *, counted: bool = True) -> int:
        """Make movies ready again that were being processed when the daemon died, or had to stop (not counted)."""
        with self._database.transaction():
            started = list(self.movies.every(STARTED))
            message = "the daemon stopped while this movie was being processed"
            reason = Reason(error=INTERRUPTED, message=message, hint="it is processed again, nothing has to be done")
            for movie in started:
                self._again(movie, reason if counted else None, attempt=movie.attempt - (0 if counted else 1))
            return len(started)

    # ------------------------------------------------------------------------------------------- operator

    def retry(self, movie_id: str) -> JournalMovie:
        """Process it once more: the same revision, or a new one that supersedes a done one."""
        with self._database.transaction():
            known = self._table.get(movie_id)
            if known.state in PENDING:
                raise UsageError(
                    "the movie is already waiting or being processed",
                    where=movie_id,
                    found=known.state,
                    hint="wait for it; streamer movies show tells how far it is",
                )
            if known.state == "done":
                return self._insert(known, known.movie, detected_utc=known.detected_utc, ready_utc=self._now())
            return self._table.update(known, state=READY, **_AFRESH)

    def skip(self, movie_id: str, reason: str) -> Event:
        """Leave it out; a result that is still being computed will not count."""
        with self._database.transaction():
            known = self._table.get(movie_id)
            if known.state in ("done", "skipped"):
                raise UsageError(
                    "the movie can no longer be skipped",
                    where=movie_id,
                    found=known.state,
                    hint="a result that is there stays; streamer movies retry makes a new one",
                )
            return self._finish(known, known.bare_record("skipped", Reason(error="Skipped", message=reason)))

    # -------------------------------------------------------------------------------------------- changes

    def _insert(self, known: JournalMovie | None, movie: Movie, **times: str) -> JournalMovie:
        """Add a first revision, or the next one; the previous one is superseded, with an event."""
        if known is None:
            return self._table.insert(movie, revision=1, supersedes=None, **times)
        self._finish(known, known.bare_record("superseded"))
        return self._table.insert(movie, revision=known.revision + 1, supersedes=known.revision, **times)

    def _finish(self, movie: JournalMovie, record: MovieRecord) -> Event:
        """Set final state and record, append the event, all in the caller's transaction."""
        if record.state not in FINAL:
            raise ValueError(f"{record.state!r} is not a final state")
        times = record.times
        record = dataclasses.replace(
            record,
            session=movie.session,
            revision=movie.revision,
            supersedes=movie.supersedes,
            times=dataclasses.replace(
                times,
                detected=times.detected or movie.detected_utc,
                ready=times.ready or movie.ready_utc,
                started=times.started or movie.started_utc,
                done=times.done or self._now(),
            ),
            path=movie.relative,
        )
        event = self.events.add(record, record.session)
        if record.state == "superseded":
            # The record of its results stays: the files are still there.
            self._table.update(movie, state=record.state)
            return event
        self._table.update(
            movie,
            state=record.state,
            record=jsontext.encode(record),
            reason=_encoded(record.reason),
            shed=" ".join(record.shed),
            fingerprint=record.source.fingerprint if record.source else movie.fingerprint,
        )
        return event

    def _again(self, movie: JournalMovie, reason: Reason | None, **columns: object) -> str:
        """Make a started movie ready again, unless it has had its chances."""
        if movie.state != STARTED:
            return movie.state
        movie = self._table.update(movie, **columns, state=READY, reason=_encoded(reason))
        if movie.attempt >= MAX_ATTEMPTS or movie.deaths >= MAX_DEATHS:
            self._finish(movie, movie.bare_record("quarantined", reason))
            return "quarantined"
        return READY

    def _now(self) -> str:
        return utc_text(self._clock.wall())


def _encoded(reason: Reason | None) -> bytes | None:
    return None if reason is None else jsontext.encode(reason)


def _is_still_none(known: JournalMovie, record: MovieRecord) -> bool:
    """Whether a file that was no movie has changed and is still none, as a tilt series that grows."""
    reasons = (known.reason, record.reason)
    return (known.state, record.state) == ("skipped", "skipped") and all(
        reason is not None and reason.error == NotAMovie.__name__ for reason in reasons
    )


def _is_rearmed(known: JournalMovie, movie: Movie) -> bool:
    """Whether a final state ends because the file was seen again.

    A failed movie is tried again after a change that leaves the content alone: it may have been unreadable.
    """
    if known.state == "failed":
        return known.is_same(movie) and known.movie.identity != movie.identity
    return known.state in REARMED
