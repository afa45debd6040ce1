"""The journal's table of movies: its columns, a row as a record, and changes of a row.

``journal`` explains the states. Changes belong in the caller's transaction, so that they share it with their event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from service.wire.messages import decode_json
from streamer import jsontext
from streamer.errors import Reason, UsageError
from streamer.movie_record import Acquisition, MovieRecord
from streamer.records import FileIdentity, Movie

if TYPE_CHECKING:
    import sqlite3

    from service.journal.database import Database

READY, STARTED = "ready", "started"
PENDING = (READY, STARTED)
INTERRUPTED = "Stopped"
"""Name of the reason why a movie that was being processed when the daemon died is ready again."""

# Paths are bytes: any file name survives. The identity is JSON: inodes need 64 bits without a sign.
SCHEMA = (
    """CREATE TABLE movies (
        number INTEGER PRIMARY KEY AUTOINCREMENT, movie_id TEXT NOT NULL, revision INTEGER NOT NULL,
        supersedes INTEGER, relative BLOB NOT NULL, path BLOB NOT NULL, session TEXT NOT NULL,
        identity BLOB NOT NULL, evidence TEXT NOT NULL, acquisition BLOB NOT NULL, state TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
        retries INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
        detected_utc TEXT NOT NULL, complete_utc TEXT, ready_utc TEXT, started_utc TEXT,
        reason BLOB, record BLOB, UNIQUE (movie_id, revision))""",
    "CREATE INDEX movies_by_state ON movies (state, number)",
)

SCHEMA_2 = (
    "ALTER TABLE movies ADD COLUMN usual_frames INTEGER",
    "ALTER TABLE movies ADD COLUMN fingerprint TEXT",
    "ALTER TABLE movies ADD COLUMN shed TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX movies_by_fingerprint ON movies (fingerprint)",
)
"""Since version 2: the session's usual number of frames, the content's hash, what was left out under load."""

SCHEMA_3 = ("CREATE INDEX movies_by_wait ON movies (state, detected_utc)",)
"""Since version 3: the longest wait is asked for with every heartbeat."""

_OF_MOVIE = "SELECT * FROM movies WHERE movie_id = ? AND (? IS NULL OR revision = ?) ORDER BY revision DESC LIMIT 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalMovie:
    """A revision of a movie as stored in the journal."""

    number: int
    """Of the row: the order in which the journal learned of movies."""
    movie: Movie
    state: str
    attempt: int
    """How often it was given to a worker and not taken back."""
    deaths: int
    """Workers that died while processing it."""
    retries: int
    """How often it was put back to be tried later."""
    supersedes: int | None
    detected_utc: str
    complete_utc: str | None
    """Since when the file has not changed; latency counts from here. None for a retry by the operator."""
    ready_utc: str | None
    started_utc: str | None
    not_before: float
    """UTC seconds before which it is not tried again."""
    fingerprint: str | None
    """Hash of the size and the ends of the file."""
    reason: Reason | None
    """Why it failed or waits."""
    stored_record: bytes | None
    """The record as JSON; see ``record``."""

    @property
    def record(self) -> MovieRecord | None:
        """What was published last, complete; decoded on demand, as most callers do not need it."""
        return None if self.stored_record is None else jsontext.decode(self.stored_record, MovieRecord)

    @property
    def plain_record(self) -> dict[str, Any] | None:
        """The record as it is stored, for people and programs, whatever version of ours wrote it."""
        return None if self.stored_record is None else _object(self.stored_record)

    @property
    def movie_id(self) -> str:
        """See ``movie_id_of``."""
        return self.movie.movie_id

    @property
    def revision(self) -> int:
        """Counts from 1."""
        return self.movie.revision

    @property
    def relative(self) -> str:
        """Path below the watched root."""
        return self.movie.relative

    @property
    def path(self) -> str:
        """Path of the file."""
        return self.movie.path

    @property
    def session(self) -> str:
        """Session that it belongs to."""
        return self.movie.session

    def is_same(self, movie: Movie) -> bool:
        """Whether the content can be taken to be the same.

        Device, inode and ctime may change without it: by a remount, a reboot, chown, a restored copy.
        """
        return self.movie.identity.has_same_content(movie.identity)

    def bare_record(self, state: str, reason: Reason | None = None) -> MovieRecord:
        """Record of a movie of which only the fate is known."""
        fields = {"movie_id": self.movie_id, "session": self.session, "revision": self.revision}
        return msgspec.convert({**fields, "state": state, "reason": reason}, MovieRecord)

    def summary(self) -> dict[str, Any]:
        """The movie in one line, for people and programs."""
        return {
            "movie_id": self.movie_id,
            "revision": self.revision,
            "path": self.relative,
            "session": self.session,
            "state": self.state,
            "attempt": self.attempt,
            "detected": self.detected_utc,
            "reason": self.reason,
        }


class MovieTable:
    """Rows of the table, one movie's revision each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, movie_id: str, revision: int | None = None) -> JournalMovie | None:
        """Newest revision, or the one named, if there is one."""
        row = self._database.row(_OF_MOVIE, (movie_id, revision, revision))
        return None if row is None else journal_movie(row)

    def get(self, movie_id: str, revision: int | None = None) -> JournalMovie:
        """The same; raises UsageError if there is none."""
        movie = self.find(movie_id, revision)
        if movie is None:
            raise UsageError(
                "the journal does not know this movie",
                where=movie_id if revision is None else f"{movie_id} r{revision}",
                hint="streamer movies list shows those it knows",
            )
        return movie

    def insert(
        self,
        movie: Movie,
        *,
        revision: int,
        supersedes: int | None,
        detected_utc: str,
        ready_utc: str | None = None,
        complete_utc: str = "",
    ) -> JournalMovie:
        """Add a revision that is ready, and return it."""
        columns = {
            "movie_id": movie.movie_id,
            "revision": revision,
            "supersedes": supersedes,
            "relative": _blob(movie.relative),
            "state": READY,
            "detected_utc": detected_utc,
            "ready_utc": ready_utc,
            "complete_utc": complete_utc,
            **_of_file(movie),
        }
        marks = ", ".join("?" * len(columns))
        self._database.execute(
            f"INSERT INTO movies ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608
            tuple(columns.values()),
        )
        return self.get(movie.movie_id, revision)

    def update(self, movie: JournalMovie, **columns: object) -> JournalMovie:
        """Change columns of a row, named by our own code only, and return it."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self._database.execute(
            f"UPDATE movies SET {names} WHERE number = ?",  # noqa: S608
            (*columns.values(), movie.number),
        )
        return self.get(movie.movie_id, movie.revision)

    def refresh(self, known: JournalMovie, movie: Movie) -> JournalMovie:
        """Update what is known about a movie that has not been started."""
        return self.update(known, **_of_file(movie))


def journal_movie(row: sqlite3.Row) -> JournalMovie:
    """Movie from its row."""
    movie = Movie(
        path=path_of(row),
        relative=relative_of(row),
        session=row["session"],
        revision=row["revision"],
        identity=identity_of(row),
        evidence=row["evidence"],
        acquisition=msgspec.convert(_object(row["acquisition"]), Acquisition),
        usual_frames=row["usual_frames"],
    )
    return JournalMovie(
        number=row["number"],
        movie=movie,
        state=row["state"],
        attempt=row["attempt"],
        deaths=row["deaths"],
        retries=row["retries"],
        supersedes=row["supersedes"],
        detected_utc=row["detected_utc"],
        complete_utc=row["complete_utc"] or None,
        ready_utc=row["ready_utc"],
        started_utc=row["started_utc"],
        not_before=row["not_before"],
        fingerprint=row["fingerprint"],
        reason=msgspec.convert(_object(row["reason"]), Reason) if row["reason"] else None,
        stored_record=row["record"] or None,
    )


def identity_of(row: sqlite3.Row) -> FileIdentity:
    """Identity of the file when it was last seen."""
    return msgspec.convert(decode_json(row["identity"]), FileIdentity)


def relative_of(row: sqlite3.Row) -> str:
    """Path below the watched root."""
    return _text(row["relative"])


def path_of(row: sqlite3.Row) -> str:
    """Path of the file."""
    return _text(row["path"])


def _of_file(movie: Movie) -> dict[str, object]:
    """Columns with what is known about the file."""
    return {
        "path": _blob(movie.path),
        "session": movie.session,
        "identity": jsontext.encode(movie.identity),
        "evidence": movie.evidence,
        "acquisition": jsontext.encode(movie.acquisition),
        "usual_frames": movie.usual_frames,
    }


def _object(raw: bytes) -> dict[str, Any]:
    # Our own bytes, of any length: a record may be longer than an event is allowed to be.
    return decode_json(raw, limit=len(raw))


def _blob(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
