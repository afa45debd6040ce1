from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from service.client import FileCursor, MemoryCursor, Position, SqliteCursor
from streamer.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cursor_in_memory() -> None:
    cursor = MemoryCursor()
    assert cursor.load() is None
    cursor.store(Position("e", 3))
    assert cursor.load() == ("e", 3)


def test_a_cursor_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    cursor = FileCursor(path)
    assert cursor.load() is None
    cursor.store(Position("e", 3))
    cursor.store(Position("e", 4))
    assert json.loads(path.read_bytes()) == {"epoch": "e", "seq": 4}
    assert FileCursor(str(path)).load() == Position("e", 4)
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path = tmp_path / "cursor"
    cursor = FileCursor(path)
    cursor.store(Position("e", 3))
    with path.open("rb") as before:
        cursor.store(Position("e", 4))
        assert json.load(before)["seq"] == 3


def test_a_cursor_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cursor"
    cursor = FileCursor(path)
    cursor.store(Position("e", 3))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ServiceError, match="cannot be written"):
        cursor.store(Position("e", 4))
    assert cursor.load() == ("e", 3)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"epoch":1,"seq":1}',
        b'{"epoch":"e","seq":"1"}',
        b'{"epoch":"e","seq":-1}',
        b'{"epoch":"e","seq":true}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_an_error_and_no_fresh_start(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "cursor").write_bytes(raw)
    with pytest.raises(ServiceError, match="remove the file"):
        FileCursor(tmp_path / "cursor").load()


def test_a_cursor_in_the_subscribers_own_transaction(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE TABLE results (x)")
    cursor = SqliteCursor(connection)
    assert cursor.load() is None
    with connection:
        connection.execute("INSERT INTO results VALUES (1)")
        cursor.store(Position("e", 1))
    connection.execute("INSERT INTO results VALUES (2)")
    cursor.store(Position("e", 2))
    connection.rollback()
    assert cursor.load() == ("e", 1)
    assert connection.execute("SELECT x FROM results").fetchall() == [(1,)]
    connection.close()
    connection = sqlite3.connect(tmp_path / "db")
    assert SqliteCursor(connection).load() == ("e", 1)
    connection.close()


def test_several_subscribers_in_one_database(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    one, two = SqliteCursor(connection, "one"), SqliteCursor(connection, "two")
    one.store(Position("e", 1))
    assert two.load() is None
    connection.close()


def test_only_the_subscriber_stores_a_cursor_that_is_part_of_its_transaction() -> None:
    assert FileCursor.automatic
    assert MemoryCursor.automatic
    assert not SqliteCursor.automatic
