"""How far a subscriber has come: the last event that it has handled, kept across restarts."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from service.wire.messages import Position
from streamer.errors import ServiceError

if TYPE_CHECKING:
    import sqlite3


class Cursor(Protocol):
    """A place to keep a position."""

    automatic: ClassVar[bool]
    """Whether ``Client.events`` stores each position when the subscriber asks for the next event."""

    def load(self) -> Position | None:
        """Where to continue; None: nothing yet, so from the first event that is kept."""

    def store(self, position: Position) -> None:
        """Remember that everything up to here has been handled."""


class MemoryCursor:
    """Forgotten with the process: for a monitor, or to start from a snapshot or a heartbeat."""

    automatic: ClassVar[bool] = True

    def __init__(self, position: Position | None = None) -> None:
        self.position = position

    def load(self) -> Position | None:
        """Where to continue."""
        return self.position

    def store(self, position: Position) -> None:
        """Remember it."""
        self.position = position


class FileCursor:
    """JSON {"epoch", "seq"} in a small file, complete at any moment, even after a power cut.

    The position is stored after the subscriber has handled an event; killed in between, it gets that one again,
    with the same ``event_id``. One flush to disk per event: a few milliseconds.
    """

    automatic: ClassVar[bool] = True

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def load(self) -> Position | None:
        """Where to continue; a damaged file raises ``ServiceError``, so that nothing is repeated unnoticed."""
        try:
            fields = json.loads(self.path.read_bytes())
            epoch, seq = fields["epoch"], fields["seq"]
            if not isinstance(epoch, str) or type(seq) is not int or seq < 0:
                raise TypeError("epoch or seq")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ServiceError(
                "the cursor cannot be read",
                where=self.path,
                expected='{"epoch": ..., "seq": ...}',
                found=error,
                hint="remove the file to start again from the first event",
            ) from error
        return Position(epoch, seq)

    def store(self, position: Position) -> None:
        """Write it to a temporary file, flush, and rename that into place."""
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(json.dumps(position._asdict()).encode("ascii"))
                    file.flush()
                    os.fsync(descriptor)
                Path(temporary).replace(self.path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ServiceError(
                "the cursor cannot be written",
                where=self.path,
                found=error,
                hint="free some space, or give the cursor a place that can be written",
            ) from error


class SqliteCursor:
    """A row in the subscriber's own database, written in the subscriber's own transaction: exactly once.

    The subscriber stores it together with its own result for the event::

        for event in client.events(cursor):
            with connection:
                connection.execute("INSERT INTO ...", ...)
                cursor.store(event.position)
    """

    automatic: ClassVar[bool] = False

    def __init__(self, connection: sqlite3.Connection, name: str = "default") -> None:
        self._connection, self._name = connection, name
        connection.execute(
            "CREATE TABLE IF NOT EXISTS streamer_cursor"
            " (name TEXT PRIMARY KEY, epoch TEXT NOT NULL, seq INTEGER NOT NULL)"
        )

    def load(self) -> Position | None:
        """Where to continue."""
        row = self._connection.execute(
            "SELECT epoch, seq FROM streamer_cursor WHERE name = ?", (self._name,)
        ).fetchone()
        return None if row is None else Position(row[0], row[1])

    def store(self, position: Position) -> None:
        """Write it; the subscriber commits."""
        self._connection.execute("INSERT OR REPLACE INTO streamer_cursor VALUES (?, ?, ?)", (self._name, *position))
