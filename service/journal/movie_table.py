"""The journal's table of movies: its columns, and a row as a record. ``journal`` says what states mean."""

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
    from collections.abc import Iterator

    from service.journal.database import Database

INTERRUPTED = "Stopped"
"""Name of the reason why a movie is ready again that was at work when the daemon died."""
_PORTION = 500

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
"""Since version 2: what is usual in the session, what the content hashes to, what was left out under load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalMovie:
    """A revision of a movie as it stands in the journal."""

    movie: Movie
    state: str
    attempt: int
    """Times that it was given to a worker and not taken back."""
    deaths: int
    """Workers that died on it."""
    supersedes: int | None
    detected_utc: str
    complete_utc: str | None
    """Since when the file stood still; latency counts from here. None for a retry by the operator."""
    ready_utc: str | None
    started_utc: str | None
    not_before: float
    """UTC seconds before which it is not tried again."""
    reason: Reason | None
    """Why it failed or waits."""
    record: dict[str, Any] | None
    """What was published last, whole: a ``MovieRecord``, perhaps of an older version of the program."""


def latest(connection: sqlite3.Connection, movie_id: str) -> sqlite3.Row | None:
    """Newest revision."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM movies WHERE movie_id = ? ORDER BY revision DESC LIMIT 1", (movie_id,)
    ).fetchone()
    return found


def known(connection: sqlite3.Connection, movie_id: str, revision: int | None = None) -> sqlite3.Row:
    """Newest revision, or the one named; ``UsageError`` where there is none."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM movies WHERE movie_id = ? AND (? IS NULL OR revision = ?) ORDER BY revision DESC LIMIT 1",
        (movie_id, revision, revision),
    ).fetchone()
    if found is None:
        raise UsageError(
            "the journal does not know this movie",
            where=movie_id if revision is None else f"{movie_id} r{revision}",
            hint="streamer movies list shows those it knows",
        )
    return found


def insert(
    connection: sqlite3.Connection,
    movie: Movie,
    *,
    state: str,
    revision: int,
    supersedes: int | None,
    detected_utc: str,
    ready_utc: str | None = None,
    complete_utc: str = "",
) -> sqlite3.Row:
    """Add a row and return it."""
    connection.execute(
        "INSERT INTO movies (movie_id, revision, supersedes, relative, path, session, identity, evidence,"
        " acquisition, state, detected_utc, ready_utc, complete_utc, usual_frames)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            movie.movie_id,
            revision,
            supersedes,
            _blob(movie.relative),
            _blob(movie.path),
            movie.session,
            jsontext.encode(movie.identity),
            movie.evidence,
            jsontext.encode(movie.acquisition),
            state,
            detected_utc,
            ready_utc,
            complete_utc,
            movie.usual_frames,
        ),
    )
    return known(connection, movie.movie_id, revision)


def update(connection: sqlite3.Connection, row: sqlite3.Row, **columns: object) -> sqlite3.Row:
    """Change columns of a row, named by our own code only, and return it."""
    names = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE movies SET {names} WHERE number = ?", (*columns.values(), row["number"]))  # noqa: S608
    return known(connection, row["movie_id"], row["revision"])


def refresh(connection: sqlite3.Connection, row: sqlite3.Row, movie: Movie) -> sqlite3.Row:
    """Take over what was learnt since about a movie that has not been started."""
    return update(
        connection,
        row,
        path=_blob(movie.path),
        session=movie.session,
        identity=jsontext.encode(movie.identity),
        evidence=movie.evidence,
        acquisition=jsontext.encode(movie.acquisition),
        usual_frames=movie.usual_frames,
    )


def is_same(row: sqlite3.Row, movie: Movie) -> bool:
    """Whether the content can be taken to be the same.

    Device, inode and ctime may change without it: by a remount, a reboot, chown, a restored copy.
    """
    return identity_of(row).has_same_content(movie.identity)


def identity_of(row: sqlite3.Row) -> FileIdentity:
    """Identity of the file when it was seen last."""
    return msgspec.convert(decode_json(row["identity"]), FileIdentity)


def relative_of(row: sqlite3.Row) -> str:
    """Path below the watched root."""
    return _text(row["relative"])


def bare_record(row: sqlite3.Row, state: str, reason: Reason | None = None) -> MovieRecord:
    """Record of a movie of which nothing is known but its fate."""
    fields = {"movie_id": row["movie_id"], "session": row["session"], "revision": row["revision"]}
    return msgspec.convert({**fields, "state": state, "reason": reason}, MovieRecord)


def journal_movie(row: sqlite3.Row) -> JournalMovie:
    """Record from its row."""
    movie = Movie(
        path=_text(row["path"]),
        relative=relative_of(row),
        session=row["session"],
        revision=row["revision"],
        identity=identity_of(row),
        evidence=row["evidence"],
        acquisition=msgspec.convert(_object(row["acquisition"]), Acquisition),
        usual_frames=row["usual_frames"],
    )
    return JournalMovie(
        movie=movie,
        state=row["state"],
        attempt=row["attempt"],
        deaths=row["deaths"],
        supersedes=row["supersedes"],
        detected_utc=row["detected_utc"],
        complete_utc=row["complete_utc"] or None,
        ready_utc=row["ready_utc"],
        started_utc=row["started_utc"],
        not_before=row["not_before"],
        reason=msgspec.convert(_object(row["reason"]), Reason) if row["reason"] else None,
        record=_object(row["record"]) if row["record"] else None,
    )


def _object(raw: bytes) -> dict[str, Any]:
    # Our own bytes, of any length: a record may be longer than an event is allowed to be.
    return decode_json(raw, limit=len(raw))


def _blob(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def every_row(database: Database, session: str | None = None, state: str | None = None) -> Iterator[sqlite3.Row]:
    """Rows of a session and state, oldest first, read in portions: there may be very many."""
    query = (
        "SELECT * FROM movies WHERE (:session IS NULL OR session = :session) AND (:state IS NULL OR state = :state)"
        " AND number > :last ORDER BY number LIMIT :portion"
    )
    last = 0
    while rows := database.rows(query, {"session": session, "state": state, "last": last, "portion": _PORTION}):
        yield from rows
        last = rows[-1]["number"]


def summary(movie: JournalMovie) -> dict[str, Any]:
    """What is told of a movie in a line."""
    return {
        "movie_id": movie.movie.movie_id,
        "revision": movie.movie.revision,
        "path": movie.movie.relative,
        "session": movie.movie.session,
        "state": movie.state,
        "attempt": movie.attempt,
        "detected": movie.detected_utc,
        "reason": movie.reason,
    }
