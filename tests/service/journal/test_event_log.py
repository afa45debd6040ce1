from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from service.wire.messages import HEADER_BYTES, Alert, ModelChange, SessionChange, parse_event
from streamer.runtime.clock import utc_seconds, utc_text
from tests.service_samples import UTC, changing, make_movie, make_record

if TYPE_CHECKING:
    from pathlib import Path

    from service.journal.journal import Journal


def alert(name: str = "x", state: str = "raised") -> Alert:
    return Alert(name=name, severity="info", state=state)


def finish(journal: Journal, name: str) -> None:
    movie = journal.add_ready(make_movie(name), UTC, UTC).movie
    journal.start(movie.movie_id, movie.revision)
    journal.finish(make_record(name))


def test_numbers_are_dense_over_all_and_within_kind_and_session(journal: Journal) -> None:
    for body, session in [
        (SessionChange(state="started"), "a"), (alert(), "a"), (alert(), "b"), (alert(), "a"),
        (ModelChange(version="v0001", result="promoted"), "a"),
    ]:  # fmt: skip
        journal.events.append(body, session)
    events = [parse_event(row.raw) for row in journal.events.page(1)]
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert [event.kseq for event in events] == [1, 1, 1, 2, 1]
    assert journal.events.kseqs() == {"session/a": 1, "alert/a": 2, "alert/b": 1, "model/a": 1}
    assert journal.events.kseqs(limit=1) == {"model/a": 1}
    assert len({event.event_id for event in events}) == 5


def test_the_first_number(journal: Journal) -> None:
    assert (journal.events.first_seq, journal.events.last_seq) == (1, 0)
    journal.events.append(alert())
    assert (journal.events.first_seq, journal.events.last_seq) == (1, 1)


def test_numbers_go_on_where_old_events_were_pruned(journal: Journal, tmp_path: Path) -> None:
    for _ in range(3):
        journal.events.append(alert())
    with changing(tmp_path / "journal.sqlite") as database:
        database.execute("DELETE FROM events WHERE seq <= 2")
    assert (journal.events.first_seq, journal.events.last_seq) == (3, 3)
    with changing(tmp_path / "journal.sqlite") as database:
        database.execute("DELETE FROM events")
    assert (journal.events.first_seq, journal.events.last_seq) == (4, 3)
    event = journal.events.append(alert())
    assert (event.seq, event.kseq) == (4, 4)


def test_pages_by_number_size_and_kind(journal: Journal) -> None:
    for i in range(10):
        journal.events.append(alert(str(i)) if i % 2 else SessionChange(state="started", message="y" * 1000), "s")
    assert [row.seq for row in journal.events.page(3, max_count=4)] == [3, 4, 5, 6]
    assert [row.seq for row in journal.events.page(1, kinds=["alert"])] == [2, 4, 6, 8, 10]
    assert journal.events.page(1, kinds=["weather"]) == []
    size = len(journal.events.page(1)[0].raw)
    assert [row.seq for row in journal.events.page(1, max_bytes=size)] == [1]
    assert [row.seq for row in journal.events.page(1, max_bytes=1)] == [1]
    assert journal.events.page(11) == []


def test_a_snapshot_holds_the_latest_event_of_each_subject(journal: Journal) -> None:
    finish(journal, "grid1/a.tif")
    finish(journal, "grid1/b.tif")
    journal.events.append(alert("hot"), "grid1")
    journal.events.append(alert("hot", "cleared"), "grid1")
    journal.add_ready(make_movie("grid1/a.tif", size=5), UTC, UTC)
    assert [row.seq for row in journal.events.snapshot()] == [2, 4, 5]
    assert [row.seq for row in journal.events.snapshot(kinds=["movie"])] == [2, 5]
    assert [row.seq for row in journal.events.snapshot(session="grid2")] == []
    assert [row.seq for row in journal.events.snapshot(limit=2)] == [2, 4]
    assert [row.seq for row in journal.events.snapshot(after=4)] == [5]


def test_bytes_come_back_as_they_were_made(journal: Journal) -> None:
    body = Alert(name="x", severity="info", state="raised", message="Å\udcff\n")
    event = journal.events.append(body, "s")
    assert journal.events.page(1)[0].raw == event.raw
    assert parse_event(event.raw).body["message"] == "Å\udcff\n"


def test_a_heartbeat_stays_within_a_header_however_many_sessions_there_were(journal: Journal) -> None:
    for i in range(200):
        journal.events.append(alert(), f"session-{i:0100}")
    assert len(json.dumps(journal.events.kseqs())) < HEADER_BYTES


@pytest.mark.parametrize("text", ["2026-11-20T12:00:00.000Z", "2026-11-20T12:00:00+00:00", "2026-11-20T12:00:00"])
def test_times(text: str) -> None:
    assert utc_text(utc_seconds(text)) == "2026-11-20T12:00:00.000Z"
