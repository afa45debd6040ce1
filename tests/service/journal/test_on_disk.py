from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.journal import journal as journal_module
from service.journal.database import Database, lock_instance
from service.journal.journal import MIGRATIONS, Journal
from service.journal.movie_table import MovieTable
from service.wire.messages import parse_event
from streamer import jsontext
from streamer.errors import AlreadyRunning, ConfigError, ServiceError
from tests.service_samples import UTC, make_movie, make_record

if TYPE_CHECKING:
    from service.journal.event_log import EventRow
    from streamer.records import Movie

A = make_movie("grid1/a.tif")


def add(journal: Journal, movie: Movie = A) -> str:
    return journal.add_ready(movie, UTC, UTC).movie.movie_id


# ------------------------------------------------------------ one transaction, disk


def test_state_and_event_are_one_transaction(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    movie_id = add(journal)
    journal.start(movie_id, 1)

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(MovieTable, "update", fail)
        with pytest.raises(ServiceError, match="disk I/O error"):
            journal.finish(make_record())
    assert journal.events.page(1) == []
    assert journal.events.last_seq == 0
    found = journal.movie(movie_id)
    assert found is not None
    assert found.state == "started"
    event = journal.finish(make_record())
    assert event is not None
    assert event.seq == 1


def test_a_full_disk_loses_nothing_and_is_survived(journal: Journal) -> None:
    connection = journal._database._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 30}")
    names = [f"grid1/{i}.tif" for i in range(100)]

    def work() -> None:
        for name in names:
            journal.start(add(journal, make_movie(name)), 1)
            journal.finish(make_record(name, flags=["x" * 5000]))

    with pytest.raises(ServiceError, match="full"):
        work()
    connection.execute("PRAGMA max_page_count = 100000")
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    n_done = journal.movies.counts_by_state().get("done", 0)
    assert len(journal.events.page(1)) == journal.events.last_seq == n_done > 0
    journal.requeue_started()
    del names[:n_done]
    while ready := journal.movies.next_ready():
        journal.start(ready.movie.movie_id, 1)
        journal.finish(make_record(ready.movie.relative))
        names.remove(ready.movie.relative)
    work()
    assert journal.movies.counts_by_state() == {"done": 100}
    assert journal.events.last_seq == 100


def test_commits_are_flushed_to_disk(journal: Journal) -> None:
    connection = journal._database._connection
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_every_commit_is_timed(tmp_path: Path) -> None:
    took: list[float] = []
    journal = Journal.open(tmp_path / "j", on_commit=took.append)
    before = len(took)
    add(journal)
    assert len(took) == before + 1
    assert took[-1] > 0
    journal.close()


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    movie_id = add(journal)
    journal.start(movie_id, 1)
    event = journal.finish(make_record())
    epoch = journal.events.epoch
    journal.close()
    journal = Journal.open(tmp_path / "j")
    assert journal.events.epoch == epoch
    assert event is not None
    assert journal.events.page(1)[0].raw == event.raw
    assert journal.events.last_seq == 1
    journal.close()


def test_another_file_is_another_epoch(tmp_path: Path) -> None:
    epochs = set()
    for name in "ab":
        journal = Journal.open(tmp_path / name)
        epochs.add(journal.events.epoch)
        journal.close()
    assert len(epochs) == 2


def test_the_journal_of_another_instance_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path / "j", instance="krios1").close()
    with pytest.raises(ConfigError) as caught:
        Journal.open(tmp_path / "j", instance="krios2")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("kind", ["text", "flipped"])
def test_a_damaged_file_is_refused_with_a_hint(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "j"
    if kind == "text":
        path.write_bytes(b"this is no database" * 100)
    else:
        journal = Journal.open(path)
        for i in range(300):
            add(journal, make_movie(f"grid1/{i}.tif"))
        journal.close()
        raw = bytearray(path.read_bytes())
        raw[8192:16384] = b"\xa5" * 8192
        path.write_bytes(raw)
    with pytest.raises(ServiceError, match="recover") as caught:
        Journal.open(path)
    assert caught.value.exit_code == 74


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError):
        Journal.open(tmp_path / "file" / "j")


def test_reading_beside_a_running_daemon(journal: Journal, tmp_path: Path) -> None:
    add(journal)
    other = Journal.open(tmp_path / "journal.sqlite", read_only=True)
    assert other.movies.pending() == 1
    with pytest.raises(ServiceError, match="readonly"):
        other.skip(A.movie_id, "no")
    other.close()
    with pytest.raises(ServiceError):
        Journal.open(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()


# ------------------------------------------------------------ migrations


def test_migrations_go_forward_with_a_copy_of_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "j")
    add(journal)
    journal.close()
    newer = (*journal_module.MIGRATIONS, ("ALTER TABLE movies ADD COLUMN grade TEXT",))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "MIGRATIONS", newer)
        with pytest.raises(ServiceError, match="start the daemon once"):
            Journal.open(tmp_path / "j", read_only=True)
        journal = Journal.open(tmp_path / "j")
        assert journal.movie(A.movie_id) is not None
        journal.close()
    with pytest.raises(ServiceError, match="another version"):
        Journal.open(tmp_path / "j")
    old = Journal.open(tmp_path / f"j.schema{len(journal_module.MIGRATIONS)}.backup")
    assert old.movie(A.movie_id) is not None
    old.close()


def test_a_journal_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    old = Database.open(tmp_path / "j", MIGRATIONS[:1])
    with old.transaction():
        for item in {"epoch": "e", "instance": "default"}.items():
            old.execute("INSERT INTO meta VALUES (?, ?)", item)
        old.execute(
            "INSERT INTO movies (movie_id, revision, relative, path, session, identity, evidence, acquisition,"
            " state, detected_utc) VALUES (?, 1, ?, ?, 'grid1', ?, 'header', X'7B7D', 'ready', ?)",
            (A.movie_id, b"grid1/a.tif", b"/data/grid1/a.tif", jsontext.encode(A.identity), UTC),
        )
    old.close()
    journal = Journal.open(tmp_path / "j")
    movie = journal.movies.next_ready()
    assert movie is not None
    assert movie.movie == A
    journal.start(A.movie_id, 1)
    assert journal.finish(make_record("grid1/a.tif", shed=["denoise"])) is not None
    assert journal.movies.with_shed() == [A.movie_id]
    journal.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal.open(tmp_path / "j").close()
    broken = (*journal_module.MIGRATIONS, ("CREATE TABLE half (a)", "CREATE TABLE nonsense ("))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "MIGRATIONS", broken)
        with pytest.raises(ServiceError):
            Journal.open(tmp_path / "j")
    journal = Journal.open(tmp_path / "j")
    assert sqlite3.connect(tmp_path / "j").execute("SELECT * FROM sqlite_master WHERE name = 'half'").fetchall() == []
    journal.close()


# ------------------------------------------------------------ the lock

_HOLD = """
import sys
from pathlib import Path
from service.journal.database import lock_instance
with lock_instance(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_daemon_per_instance(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning, match=str(holder.pid)) as caught, lock_instance(tmp_path):
            pass
        assert caught.value.exit_code == 75
        holder.kill()
    # The kernel dropped it with the process: no stale lock.
    with lock_instance(tmp_path), pytest.raises(AlreadyRunning), lock_instance(tmp_path):
        pass
    with lock_instance(tmp_path):
        pass


# ------------------------------------------------------------ kill -9

_WORK = """
import sys
from tests.service_samples import UTC, make_movie, make_record
from service.journal.journal import Journal
journal = Journal.open(sys.argv[1])
journal.requeue_started()
print("running", flush=True)
number = int(sys.argv[2])
while True:
    number += 1
    name = f"grid1/{number}.tif"
    movie = journal.add_ready(make_movie(name), UTC, UTC).movie
    journal.start(movie.movie_id, 1)
    event = journal.finish(make_record(name))
    print(event.seq, flush=True)
"""


def test_kill_9_leaves_dense_numbers_and_loses_nothing_that_was_told(tmp_path: Path) -> None:
    """R-F1 in small: whatever was acknowledged is in the file, and the file is sound."""
    path = tmp_path / "j"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    acknowledged = 0
    for kill in range(20):
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORK, str(path), str(kill * 1_000_000)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        with worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "running\n"
            # A different moment of the cycle each time.
            lines = [worker.stdout.readline() for _ in range(1 + kill % 7)]
            worker.kill()
            # The last line may be cut.
            lines += worker.stdout.read().split("\n")[:-1]
        acknowledged = max([acknowledged, *map(int, lines)])
    journal = Journal.open(path)
    assert journal.integrity() == []
    rows: list[EventRow] = []
    while page := journal.events.page(len(rows) + 1):
        rows += page
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    events = [parse_event(row.raw) for row in rows]
    assert [event.kseq for event in events] == list(range(1, len(rows) + 1))
    assert len(rows) >= acknowledged > 20
    assert journal.movies.counts_by_state()["done"] == len(rows)
    assert len({event.body["movie_id"] for event in events}) == len(rows)
    assert journal.requeue_started() <= 20
    journal.close()
