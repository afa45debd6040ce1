"""The journal's file: SQLite in WAL mode, opened with care, and the lock that keeps a second daemon away.

Nothing here knows about movies. ``sqlite3.Error`` leaves this module as ``ServiceError`` only.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from streamer.errors import AlreadyRunning, ServiceError
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from streamer.runtime.clock import Clock

    Parameters = Sequence[object] | Mapping[str, object]

Migration = tuple[str, ...]
"""SQL statements that lead from one version of the schema to the next."""

BUSY_S = 5.0


class OtherSchema(ServiceError):
    """The file was written by another version of the program; it may well be sound."""


@contextmanager
def lock_instance(state_directory: Path) -> Iterator[None]:
    """Lock the instance: only one daemon may write below its state directory.

    The kernel drops the lock with the process, so there are no stale ones. Children that are forked, not
    spawned, would share it.

    Raises
    ------
    AlreadyRunning : another process holds it.
    """
    path = state_directory / "lock"
    try:
        state_directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ServiceError(
            "the state directory cannot be written",
            where=path,
            found=error,
            hint="give the daemon's user the right to write there, or set instance.state",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise AlreadyRunning(
                "another daemon holds this instance's lock",
                where=path,
                found=f"process {holder or 'unknown'}",
                hint="stop it, or use another --instance",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(state_directory: Path) -> bool:
    """Whether a daemon, or a command that changes something, holds the lock now; nothing is created."""
    try:
        descriptor = os.open(state_directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Database:
    """One connection, written by one process; every commit is on disk before the call returns."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, on_commit: Callable[[float], None], clock: Clock
    ) -> None:
        self._connection, self.path, self._on_commit, self._clock = connection, path, on_commit, clock

    @classmethod
    def open(
        cls,
        path: Path,
        migrations: Sequence[Migration],
        *,
        read_only: bool = False,
        on_commit: Callable[[float], None] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> Database:
        """Open, check and bring up to date; create if there is none.

        Parameters
        ----------
        migrations : all steps from an empty file; their number is the schema's version.
        read_only : for commands next to a running daemon: nothing is created or migrated.
        on_commit : called with the duration of each commit, s.

        Raises
        ------
        ServiceError : damaged, written by a newer program, or the directory cannot be used.
        """
        try:
            if not read_only:
                path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceError(
                "the state directory cannot be created",
                where=path,
                found=error,
                hint="give the daemon's user the right to create it, or set instance.state",
            ) from error
        with _mapped(path):
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
                uri=True,
                isolation_level=None,
                timeout=BUSY_S,
            )
        database = cls(connection, path, on_commit, clock)
        try:
            database._prepare(migrations, read_only=read_only)
        except ServiceError:
            connection.close()
            raise
        return database

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and durable when the block has ended."""
        with _mapped(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                begin = self._clock.monotonic()
                self._connection.execute("COMMIT")
            except BaseException:
                # After some errors (disk full) SQLite has rolled back itself, and there is nothing to undo.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._on_commit(self._clock.monotonic() - begin)

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Change something, within the caller's transaction; returns how many rows were changed."""
        with _mapped(self.path):
            return self._connection.execute(sql, parameters).rowcount

    def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with _mapped(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """First row of a query, if any."""
        with _mapped(self.path):
            found: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return found

    def close(self) -> None:
        """Close the file; everything committed is already on disk."""
        self._connection.close()

    def _prepare(self, migrations: Sequence[Migration], *, read_only: bool) -> None:
        with _mapped(self.path):
            self._connection.row_factory = sqlite3.Row
            if not read_only:
                self._connection.execute("PRAGMA journal_mode = WAL")
                # FULL: a commit survives a power cut. Milliseconds, for at most a few movies per second.
                self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            if not read_only:
                # reads the whole file: only for the process that will write to it, not for every reader
                verdict = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if verdict != "ok":
                    raise sqlite3.DatabaseError(verdict)
            self._migrate(migrations, read_only=read_only)

    def _migrate(self, migrations: Sequence[Migration], *, read_only: bool) -> None:
        """Forward only, each step one transaction, a copy of the old file first."""
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(migrations) or (read_only and version < len(migrations)):
            newer = version > len(migrations)
            raise OtherSchema(
                "the journal was written by another version of the program",
                where=self.path,
                expected=f"schema {len(migrations)}",
                found=f"schema {version}",
                hint="install the newer version again" if newer else "start the daemon once: it migrates the journal",
            )
        if 0 < version < len(migrations):
            self._back_up(self.path.with_name(f"{self.path.name}.schema{version}.backup"))
        for step, statements in enumerate(migrations[version:], start=version + 1):
            with self.transaction():
                for statement in (*statements, f"PRAGMA user_version = {step}"):
                    self._connection.execute(statement)

    def _back_up(self, target: Path) -> None:
        """Complete or absent: written under another name, then renamed."""
        temporary = target.with_name(target.name + ".tmp")
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary)) as copy:
            self._connection.backup(copy)
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Turn whatever SQLite says into one of our errors."""
    try:
        yield
    except sqlite3.Error as error:
        # Of the whole family, exactly this class stands for a file that contradicts itself.
        if type(error) is sqlite3.DatabaseError:
            what, hint = "the journal is damaged", "move the file away and run: streamer journal recover"
        else:
            what = "the journal cannot be used"
            hint = "free some space, check permissions and disk; nothing that was committed is lost"
        raise ServiceError(what, where=path, found=error, hint=hint) from error
