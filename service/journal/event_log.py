"""The durable events: appended in one transaction with what they report, read back byte for byte.

``seq`` is dense over the epoch, ``kseq`` over kind and session. Nothing is published that is not stored here.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.wire.messages import (
    NO_VERSION,
    SERVES_AFTER,
    Body,
    Event,
    kind_of,
    make_event,
    parse_event,
    subject_of,
)
from service.wire.requests import PAGE_BYTES, PAGE_EVENTS
from streamer.errors import ConfigError
from streamer.movie_record import DENOISER
from streamer.runtime.clock import utc_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from service.journal.database import Database
    from streamer.runtime.clock import Clock

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY, kseq INTEGER NOT NULL, kind TEXT NOT NULL, session TEXT NOT NULL,
        subject TEXT NOT NULL, event_id TEXT NOT NULL UNIQUE, t_utc TEXT NOT NULL, body BLOB NOT NULL,
        UNIQUE (kind, session, kseq))""",
    "CREATE INDEX events_by_subject ON events (kind, session, subject, seq)",
    # Newest numbers: they outlive events that are pruned, and make the heartbeat cheap.
    """CREATE TABLE numbers (
        kind TEXT NOT NULL, session TEXT NOT NULL, kseq INTEGER NOT NULL, seq INTEGER NOT NULL UNIQUE,
        PRIMARY KEY (kind, session)) WITHOUT ROWID""",
)

SCHEMA_3 = (
    "ALTER TABLE numbers ADD COLUMN newest_utc TEXT NOT NULL DEFAULT ''",
    """UPDATE numbers SET newest_utc = coalesce((SELECT max(t_utc) FROM events
        WHERE events.kind = numbers.kind AND events.session = numbers.session), '')""",
)
"""Since version 3: the latest time of each kind and session, which is not always that of its newest number."""

PRUNED_AT_ONCE = 2000
"""Events deleted in one transaction, so that the daemon's loop is not held up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """An event as stored in the journal."""

    seq: int
    kind: str
    session: str
    raw: bytes
    """The bytes that were, or will be, published."""


class EventLog:
    """Everything announced in this epoch."""

    def __init__(self, database: Database, instance: str, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self.instance = instance
        self.epoch = self._identify()

    def append(self, body: Body, session: str = "") -> Event:
        """Store an event in its own transaction: a change of the model, an alert, a session's start."""
        with self._database.transaction():
            return self.add(body, session)

    @property
    def last_seq(self) -> int:
        """Newest event; 0 before the first."""
        return self._one("SELECT max(seq) FROM numbers") or 0

    @property
    def first_seq(self) -> int:
        """Oldest event that is kept; one more than the newest if there is none."""
        first = self._one("SELECT min(seq) FROM events")
        return self.last_seq + 1 if first is None else first

    def kseqs(self, limit: int = 64) -> dict[str, int]:
        """Newest number per ``kind/session``, of those that changed last."""
        rows = self._database.rows("SELECT * FROM numbers ORDER BY seq DESC LIMIT ?", (limit,))
        return {f"{row['kind']}/{row['session']}": row["kseq"] for row in rows}

    def page(
        self,
        from_seq: int,
        max_count: int = PAGE_EVENTS,
        max_bytes: int = PAGE_BYTES,
        kinds: Sequence[str] | None = None,
    ) -> list[EventRow]:
        """Events in order, from ``from_seq`` on; at least one if there is one, however long."""
        where, values = _kinds_are(kinds)
        rows = self._database.rows(
            f"SELECT * FROM events WHERE seq >= ? {where} ORDER BY seq LIMIT ?",  # noqa: S608
            (from_seq, *values, max_count),
        )
        return _page(rows, max_bytes)

    def snapshot(
        self,
        kinds: Sequence[str] | None = None,
        session: str | None = None,
        after: int = 0,
        limit: int = PAGE_EVENTS,
    ) -> list[EventRow]:
        """Latest event of each movie, model version, alert and session, in order, above ``after``.

        What changes between two pages moves beyond ``after`` again: pages miss nothing, but may repeat a subject.
        """
        where, values = _kinds_are(kinds)
        rows = self._database.rows(
            f"""SELECT * FROM events AS this WHERE seq > ? {where} AND (? IS NULL OR session = ?)
                AND NOT EXISTS (SELECT 1 FROM events AS newer WHERE newer.kind = this.kind AND newer.session
                    = this.session AND newer.subject = this.subject AND newer.seq > this.seq)
                ORDER BY seq LIMIT ?""",  # noqa: S608
            (after, *values, session, session, limit),
        )
        return _page(rows, PAGE_BYTES)

    def prune(self, before_utc: str, most: int = PRUNED_AT_ONCE) -> int:
        """Delete events older than this, the oldest first; returns how many.

        A session's events stay while it lasts: no session loses any if it has a newer one, newer by time and not
        by number, because clocks are set back. What is kept is always an unbroken sequence up to the newest, so
        ``first_seq`` says it all.
        """
        oldest = self.first_seq
        young = self._database.row("SELECT seq FROM events WHERE t_utc >= ? ORDER BY seq LIMIT 1", (before_utc,))
        # uses the few rows of newest numbers and the indices: this runs in the daemon's loop
        first_active = self._one(
            """SELECT min((SELECT seq FROM events WHERE kind = n.kind AND session = n.session ORDER BY kseq LIMIT 1))
               FROM numbers AS n WHERE session != ''
               AND session IN (SELECT session FROM numbers WHERE newest_utc >= ?)""",
            (before_utc,),
        )
        after_all = self.last_seq + 1
        first = min(after_all if young is None else young["seq"], after_all if first_active is None else first_active)
        if oldest >= first:
            return 0
        with self._database.transaction():
            return self._database.execute("DELETE FROM events WHERE seq < ?", (min(first, oldest + most),))

    def serving_version(self, session: str) -> tuple[str | None, str | None]:
        """Version of the denoiser last put into service, and by which result; (None, None) if none ever was."""
        for row in self._database.rows(
            "SELECT body FROM events WHERE kind = 'model' AND session = ? ORDER BY seq DESC", (session,)
        ):
            body = parse_event(row["body"]).body
            if body.get("network", DENOISER) == DENOISER and body.get("result") in SERVES_AFTER:
                return (None if body["version"] == NO_VERSION else body["version"]), body["result"]
        return None, None

    def add(self, body: Body, session: str) -> Event:
        """Give an event its numbers and store it, within the caller's transaction."""
        kind = kind_of(body)
        of_kind = self._one("SELECT kseq FROM numbers WHERE kind = ? AND session = ?", (kind, session))
        event = make_event(
            body,
            instance=self.instance,
            epoch=self.epoch,
            seq=self.last_seq + 1,
            kseq=(of_kind or 0) + 1,
            session=session,
            t_utc=utc_text(self._clock.wall()),
        )
        self._database.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (event.seq, event.kseq, kind, session, subject_of(body), event.event_id, event.t_utc, event.raw),
        )
        self._database.execute(
            """INSERT INTO numbers VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, session) DO UPDATE SET
               kseq = excluded.kseq, seq = excluded.seq, newest_utc = max(newest_utc, excluded.newest_utc)""",
            (kind, session, event.kseq, event.seq, event.t_utc),
        )
        return event

    def _identify(self) -> str:
        """Epoch of this file, created once; the file must belong to this instance."""
        meta = {row["key"]: row["value"] for row in self._database.rows("SELECT key, value FROM meta")}
        if not meta:
            meta = {"epoch": str(uuid.uuid4()), "instance": self.instance, "created": utc_text(self._clock.wall())}
            with self._database.transaction():
                for item in meta.items():
                    self._database.execute("INSERT INTO meta VALUES (?, ?)", item)
        if meta["instance"] != self.instance:
            raise ConfigError(
                "the journal belongs to another instance",
                where=self._database.path,
                expected=self.instance,
                found=meta["instance"],
                hint="give each instance a state directory of its own",
            )
        return str(meta["epoch"])

    def _one(self, sql: str, parameters: Sequence[object] = ()) -> int | None:
        row = self._database.row(sql, parameters)
        return None if row is None else row[0]


def _kinds_are(kinds: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Condition in SQL, and its values, for a choice of kinds."""
    if kinds is None:
        return "", ()
    return f"AND kind IN ({', '.join('?' * len(kinds))})", tuple(kinds)


def _page(rows: Sequence[sqlite3.Row], max_bytes: int) -> list[EventRow]:
    """As many rows as fit, but at least one if there are any."""
    page: list[EventRow] = []
    total = 0
    for row in rows:
        total += len(row["body"])
        if page and total > max_bytes:
            break
        page.append(EventRow(seq=row["seq"], kind=row["kind"], session=row["session"], raw=row["body"]))
    return page
