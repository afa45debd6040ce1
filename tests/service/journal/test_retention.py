"""Old events are forgotten: which ones, and what that means for numbers and for those who come late."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import zmq
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.client import Client, MemoryCursor, Position, TooFarBehind
from service.client.sockets import RequestSocket
from service.journal.database import Database
from service.journal.event_log import PRUNED_AT_ONCE, EventLog
from service.journal.journal import MIGRATIONS, Journal
from service.wire.messages import Alert, SessionChange, parse_event
from streamer.runtime.clock import utc_text
from tests.clocks import SetClock
from tests.service_samples import Server, changing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.publishing.publisher import Publisher

BEAT = 0.05
DAY_S = 86_400.0


def fill(journal_file: Path, rows: list[tuple[str, float]]) -> None:
    """Make an event for each session and time (days), all in one transaction."""
    clock = SetClock()
    with changing(journal_file) as database:
        log = EventLog(database, "default", clock)
        for number, (session, day) in enumerate(rows):
            clock.now = day * DAY_S
            body = SessionChange(state="started") if number % 3 else Alert(name="n", severity="info", state="raised")
            log.add(body, session)


def at(day: float) -> str:
    return utc_text(day * DAY_S)


def kept(journal: Journal) -> list[int]:
    return [row.seq for row in journal.events.page(1, 10_000, 10**9)]


# ------------------------------------------------------------ which


session_events = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 20)), max_size=40)


@given(session_events, st.integers(-1, 22), st.integers(1, 9))
@example([("", 0), ("", 0), ("", 0), ("a", 0), ("a", 1), ("a", 0)], 1, 1)  # the clock was set back
@example([("a", 0), ("b", 0), ("a", 9), ("b", 0), ("a", 0)], 9, 2)  # one session's youngest lies between the others
@examples(deadline=None, max_examples=60)
def test_what_is_kept_is_an_unbroken_row_of_all_that_may_not_go(tmp_path_factory, rows, limit, portion) -> None:
    file = tmp_path_factory.mktemp("j") / "j"
    journal = Journal.open(file)
    try:
        fill(file, rows)
        numbers, last = journal.events.kseqs(), journal.events.last_seq
        total = 0
        while removed := journal.events.prune(at(limit), portion):
            total += removed
            assert removed <= portion
            assert kept(journal) == list(range(total + 1, last + 1)), "unbroken up to the newest after every portion"
        go_on = {session for session, day in rows if session and day >= limit}
        assert all(day < limit and session not in go_on for session, day in rows[:total])
        if total < len(rows):
            session, day = rows[total]
            assert day >= limit or session in go_on, "and no more is kept than this takes"
        # nothing but the old events is gone
        assert (journal.events.first_seq, journal.events.last_seq) == (total + 1, last)
        assert journal.events.kseqs() == numbers
        for session in ("", "a"):
            event = journal.events.append(SessionChange(state="stopped"), session)
            last += 1
            assert (event.seq, event.kseq) == (last, numbers.get(f"session/{session}", 0) + 1)
    finally:
        journal.close()


def test_a_session_that_goes_on_keeps_its_first_day(journal: Journal, tmp_path: Path) -> None:
    fill(tmp_path / "journal.sqlite", [("", 0), ("over", 0), ("long", 1), ("over", 2), ("", 3), ("long", 40)])
    assert journal.events.prune(at(30)) == 2
    assert kept(journal) == [3, 4, 5, 6]
    assert journal.events.prune(at(30)) == 0


def test_a_journal_from_before_the_latest_times_were_kept_forgets_no_session_that_goes_on(tmp_path) -> None:
    """The migration takes the latest time from the events themselves, not from the newest number."""
    old = Database.open(tmp_path / "j", MIGRATIONS[:2])
    with old.transaction():
        for item in {"epoch": "e", "instance": "default"}.items():
            old.execute("INSERT INTO meta VALUES (?, ?)", item)
        for seq, day in ((1, 0), (2, 40), (3, 1)):
            old.execute(
                "INSERT INTO events VALUES (?, ?, 'session', 'a', 'a', ?, ?, x'00')", (seq, seq, f"e{seq}", at(day))
            )
        old.execute("INSERT INTO numbers VALUES ('session', 'a', 3, 3)")
    old.close()
    journal = Journal.open(tmp_path / "j")
    assert journal.events.prune(at(30)) == 0
    assert journal.events.prune(at(41)) == 3
    journal.close()


def test_what_belongs_to_no_session_is_no_session_that_goes_on(journal: Journal, tmp_path: Path) -> None:
    fill(tmp_path / "journal.sqlite", [("", 0), ("", 1), ("", 40)])
    assert journal.events.prune(at(30)) == 2


def test_everything_may_be_forgotten_and_the_numbers_go_on(journal: Journal, tmp_path: Path) -> None:
    fill(tmp_path / "journal.sqlite", [("a", 0)] * 5)
    assert journal.events.prune(at(30)) == 5
    assert (journal.events.first_seq, journal.events.last_seq, kept(journal)) == (6, 5, [])
    assert journal.events.prune(at(30)) == 0
    event = journal.events.append(SessionChange(state="started"), "a")
    assert (event.seq, event.kseq) == (6, 4)


def test_an_event_exactly_as_old_as_the_limit_is_kept(journal: Journal, tmp_path: Path) -> None:
    fill(tmp_path / "journal.sqlite", [("a", 29.99), ("b", 30)])
    assert journal.events.prune(at(30)) == 1
    assert kept(journal) == [2]


def test_a_long_past_is_forgotten_in_portions(journal: Journal, tmp_path: Path) -> None:
    fill(tmp_path / "journal.sqlite", [("a", 0)] * (PRUNED_AT_ONCE + 5))
    assert journal.events.prune(at(30)) == PRUNED_AT_ONCE
    assert journal.events.first_seq == PRUNED_AT_ONCE + 1
    assert [journal.events.prune(at(30)) for _ in range(2)] == [5, 0]


def test_it_is_on_disk(journal: Journal, tmp_path: Path) -> None:
    fill(tmp_path / "journal.sqlite", [("a", 0), ("b", 40)])
    journal.events.prune(at(30))
    other = Journal.open(tmp_path / "journal.sqlite", read_only=True)
    assert (other.events.first_seq, other.events.last_seq, other.events.kseqs()) == (
        2,
        2,
        {"alert/a": 1, "session/b": 1},
    )
    other.close()


# ------------------------------------------------------------ those who come late


def forget_the_old(journal: Journal, _: Publisher) -> None:
    """Of a session that is over."""
    assert journal.events.prune(at(30)) == 5


def more(n: int) -> Callable[[Journal, Publisher], None]:
    def action(journal: Journal, publisher: Publisher) -> None:
        for _ in range(n):
            journal.events.append(SessionChange(state="stopped"), "new")
        publisher.publish_new()

    return action


@pytest.fixture
def epoch(server: Server) -> str:
    fill(server.directory / server.file, [("old", 0)] * 5 + [("new", 40)] * 5)
    server.call(forget_the_old)
    return server.call(lambda journal, _: journal.events.epoch)


def client_of(server: Server) -> Client:
    return Client(server.events, server.journal, heartbeat_s=BEAT, timeout_s=5.0)


def test_hello_tells_where_what_is_kept_begins(server: Server, epoch: str) -> None:
    context = zmq.Context()
    link = RequestSocket(context, server.journal, 5.0)
    welcome = link.hello("test")
    link.close()
    context.destroy(linger=0)
    assert (welcome.epoch, welcome.first_seq, welcome.last_seq) == (epoch, 6, 10)


@pytest.mark.parametrize("seq", [0, 3, 4])
def test_a_cursor_before_what_is_kept_is_told_so_and_a_snapshot_goes_on(server: Server, epoch: str, seq: int) -> None:
    with client_of(server) as client:
        with pytest.raises(TooFarBehind, match=r"no longer kept.*take a snapshot"):
            list(client.events(MemoryCursor(Position(epoch, seq)), idle_timeout=10.0))
        snapshot = client.snapshot()
        assert snapshot.position == Position(epoch, 10)
        assert {event.session for event in snapshot.events} == {"new"}
        server.call(more(2))
        cursor, stop, got = MemoryCursor(snapshot.position), threading.Event(), []
        for event in client.events(cursor, stop=stop, lost_timeout=10.0):
            got.append(event.seq)
            if event.seq == 11:
                server.call(more(1))
            if event.seq == 13:
                stop.set()
        assert got == [11, 12, 13]
        assert cursor.load() == Position(epoch, 13)


@pytest.mark.parametrize("position", ["the last forgotten", None])
def test_who_has_had_all_that_is_forgotten_loses_nothing(server: Server, epoch: str, position: str | None) -> None:
    with client_of(server) as client:
        stop, got = threading.Event(), []
        cursor = MemoryCursor(Position(epoch, 5) if position else None)
        for event in client.events(cursor, stop=stop, lost_timeout=10.0):
            got.append(parse_event(event.raw).seq)
            if event.seq == 10:
                stop.set()
    assert got == [6, 7, 8, 9, 10]


def test_a_client_that_follows_does_not_notice(server: Server) -> None:
    """Events are forgotten behind it, and its next ones have the next numbers."""
    fill(server.directory / server.file, [("old", 0)] * 4)
    with client_of(server) as client:
        stop, got = threading.Event(), []
        for event in client.events(stop=stop, lost_timeout=10.0):
            got.append(event.seq)
            if event.seq == 4:
                server.call(lambda journal, _: journal.events.prune(at(30)))
                server.call(more(2))
            if event.seq == 6:
                stop.set()
    assert got == [1, 2, 3, 4, 5, 6]
