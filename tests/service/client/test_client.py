"""Publisher and client over real sockets: nothing lost, nothing twice, whatever happens in between."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from service.client import Client, FileCursor, MemoryCursor, Position, SqliteCursor
from service.wire.heartbeat import Heartbeat
from service.wire.messages import Alert, Event, ProtocolError, SessionChange
from streamer.errors import ServiceError
from tests.service_samples import UTC as NOON
from tests.service_samples import Server, append, changing, lose, make_movie, make_record, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.journal.journal import Journal
    from service.publishing.publisher import Publisher

BEAT = 0.05


class Subscriber:
    """A client in a thread, and what it got."""

    def __init__(self, server: Server, cursor: Any = None, **options: Any) -> None:
        self.got: list[Event] = []
        self.error: BaseException | None = None
        self.heartbeats: list[Heartbeat] = []
        self.stop = threading.Event()
        self.client = Client(server.events, server.journal, heartbeat_s=BEAT, timeout_s=1.0, **options)
        self._cursor = cursor
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for event in self.client.events(self._cursor, stop=self.stop, on_heartbeat=self.heartbeats.append):
                self.got.append(event)
        except ServiceError as error:
            self.error = error

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in list(self.got)]

    def has(self, n: int) -> Callable[[], bool]:
        return lambda: len(self.got) >= n or self.error is not None

    def __enter__(self) -> Subscriber:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()
        self.client.close()


@contextmanager
def patient(server: Server, n: int, **options: Any) -> Iterator[Subscriber]:
    """A subscriber that has joined and has everything so far."""
    with Subscriber(server, **options) as subscriber:
        wait_until(subscriber.has(n))
        yield subscriber


# ------------------------------------------------------------ the usual way


def test_a_late_subscriber_gets_every_event_once_and_in_order(server: Server) -> None:
    server.call(append(1000))
    published = server.call(lambda journal, _: [row.raw for row in journal.events.page(1, 10_000, 10**9)])
    with patient(server, 1000) as subscriber:
        server.call(append(100))
        wait_until(subscriber.has(1100))
    assert subscriber.seqs == list(range(1, 1101))
    assert [event.raw for event in subscriber.got[:1000]] == published


def test_joining_while_events_are_being_published(server: Server) -> None:
    """Between HELLO and the first live event nothing may fall through, at whatever moment a client joins."""
    subscribers = [Subscriber(server) for _ in range(4)]
    for subscriber in subscribers:
        subscriber.__enter__()
        server.call(append(50))
    for subscriber in subscribers:
        wait_until(subscriber.has(200))
        subscriber.__exit__()
        assert subscriber.seqs == list(range(1, 201))


def test_joining_asks_the_journal_at_once(server: Server) -> None:
    """And not only after a heartbeat has been ahead for as long as the subscriber is patient."""
    server.call(append(3))
    with Client(server.events, server.journal, heartbeat_s=60.0) as client:
        assert len(list(client.events(idle_timeout=1.0))) == 3


def test_a_movie_event_as_a_subscriber_sees_it(server: Server) -> None:
    def process(journal: Journal, publisher: Publisher) -> bytes:
        movie = journal.add_ready(make_movie("grid1/a\n\x1b\udcff.tif"), NOON, NOON).movie
        journal.start(movie.movie_id, 1)
        event = journal.finish(make_record(movie.relative))
        publisher.publish_new()
        assert event is not None
        return event.raw

    with patient(server, 0) as subscriber:
        wait_until(lambda: subscriber.heartbeats)
        raw = server.call(process)
        wait_until(subscriber.has(1))
    event = subscriber.got[0]
    assert event.raw == raw
    assert event.body["source"]["path"] == "grid1/a\n\x1b\udcff.tif"
    assert (event.instance, event.kind, event.session) == ("default", "movie", "grid1")


def test_only_the_kinds_asked_for_and_no_hole_is_seen_in_the_others(server: Server) -> None:
    replays: list[str] = []

    def mixed(journal: Journal, publisher: Publisher) -> None:
        publisher.replies._answered = lambda verb, _: replays.append(verb)
        for i in range(20):
            journal.events.append(
                SessionChange(state="x") if i % 5 == 4 else Alert(name="n", severity="i", state="r"), "s"
            )
            publisher.publish_new()

    with patient(server, 0, kinds=["session"]) as subscriber:
        wait_until(lambda: subscriber.heartbeats)
        wait_until(lambda: subscriber.client is not None)
        server.call(mixed)
        wait_until(subscriber.has(4))
        beats = len(subscriber.heartbeats)
        wait_until(lambda: len(subscriber.heartbeats) > beats + 5)
    assert subscriber.seqs == [5, 10, 15, 20]
    assert len(replays) <= 3


def test_the_cursor_moves_over_events_that_were_not_asked_for(server: Server, tmp_path: Path) -> None:
    server.call(append(10))
    cursor = MemoryCursor()
    with patient(server, 0, kinds=["movie"], cursor=cursor):
        wait_until(lambda: cursor.position is not None and cursor.position.seq == 10)


def test_the_cursor_is_stored_when_the_subscriber_comes_back_and_not_before(server: Server) -> None:
    """Stored earlier, an event would be lost to a subscriber that dies while it deals with it."""
    server.call(append(3))
    cursor = MemoryCursor()
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        events = client.events(cursor)
        stored = []
        for _ in range(3):
            next(events)
            stored.append(cursor.position and cursor.position.seq)
        events.close()
        assert stored == [None, 1, 2]
        again = client.events(cursor)
        assert next(again).seq == 3
        again.close()


def test_starting_from_now(server: Server) -> None:
    server.call(append(10))
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        heartbeat = client.heartbeat()
    with patient(server, 0, cursor=MemoryCursor(Position(heartbeat.epoch, heartbeat.seq))) as subscriber:
        server.call(append(1))
        wait_until(subscriber.has(1))
    assert subscriber.seqs == [11]


def test_heartbeat_snapshot_and_going_on_from_there(server: Server) -> None:
    server.call(lambda journal, _: [
        journal.events.append(Alert(name=f"n{i % 700}", severity="info", state="raised"), "s") for i in range(1000)
    ])  # fmt: skip
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        wait_until(lambda: client.heartbeat().seq == 1000)
        assert client.heartbeat().kseq == {"alert/s": 1000}
        snapshot = client.snapshot()
        assert [event.seq for event in snapshot.events] == list(range(301, 1001))
        assert client.snapshot(kinds=["movie"]).events == []
        assert client.snapshot(session="t").events == []
        server.call(append(3))
        events = client.events(MemoryCursor(snapshot.position), idle_timeout=5.0)
        assert [next(events).seq for _ in range(3)] == [1001, 1002, 1003]
        events.close()


def test_a_snapshot_of_more_pages_than_requests_are_allowed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.publishing.replies.REQUESTS_PER_S", 5)
    server.call(lambda journal, _: [
        journal.events.append(Alert(name=f"n{i}", severity="info", state="raised"), "s") for i in range(2000)
    ])  # fmt: skip
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        assert len(client.snapshot().events) == 2000


def test_replaying_more_pages_than_requests_are_allowed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.publishing.replies.REQUESTS_PER_S", 5)
    server.call(append(1500))
    answered: list[tuple[str, str]] = []

    def listen(_: Journal, publisher: Publisher) -> None:
        publisher.replies._answered = lambda verb, result: answered.append((verb, result))

    server.call(listen)
    with patient(server, 1500) as subscriber:
        pass
    assert subscriber.seqs == list(range(1, 1501))
    assert ("unknown", "RATE") in answered
    # It waits; a new connection would be a way round the limit.
    assert [verb for verb, _ in answered].count("HELLO") == 1


def test_the_loop_ends_when_nothing_happens(server: Server) -> None:
    server.call(append(3))
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        assert len(list(client.events(idle_timeout=0.5))) == 3


def test_subscribers_are_counted(server: Server) -> None:
    assert server.call(lambda _, publisher: publisher.subscribers) == 0
    with patient(server, 0), patient(server, 0):
        wait_until(lambda: server.call(lambda _, publisher: publisher.subscribers) == 2)
    wait_until(lambda: server.call(lambda _, publisher: publisher.subscribers) == 0)


# ------------------------------------------------------------ losses


def test_the_loss_of_the_last_message_is_revealed_by_the_heartbeat(server: Server) -> None:
    with patient(server, 0) as subscriber:
        server.call(append(3))
        wait_until(subscriber.has(3))
        server.call(lose(1))
        wait_until(subscriber.has(4))
    assert subscriber.seqs == [1, 2, 3, 4]


def test_without_a_heartbeat_the_loss_at_the_end_stays_hidden(server: Server) -> None:
    """The control of the test above: it is the heartbeat that helps, and nothing else."""
    with patient(server, 0) as subscriber:
        server.call(append(3))
        wait_until(subscriber.has(3))
        server.beating = False
        server.call(lose(1))
        assert not threading.Event().wait(20 * BEAT)
        assert subscriber.seqs == [1, 2, 3]
        server.beating = True
        wait_until(subscriber.has(4))


def test_a_loss_in_the_middle_is_replayed(server: Server) -> None:
    with patient(server, 0) as subscriber:
        server.call(append(3))
        wait_until(subscriber.has(3))
        server.beating = False
        server.call(lose(2))
        server.call(append(1))
        wait_until(subscriber.has(6))
        server.beating = True
    assert subscriber.seqs == [1, 2, 3, 4, 5, 6]


def test_random_losses(server: Server) -> None:
    rng = random.Random(1)
    with patient(server, 0) as subscriber:
        total = 0
        for _ in range(100):
            n = rng.randint(1, 3)
            server.call(lose(n) if rng.random() < 0.4 else append(n))
            total += n
        wait_until(subscriber.has(total))
    assert subscriber.seqs == list(range(1, total + 1))


def test_a_subscriber_that_does_not_read_holds_nobody_up(server: Server) -> None:
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client, patient(server, 0) as healthy:
        server.call(append(1))
        stalled = client.events(idle_timeout=30.0)
        assert next(stalled).seq == 1
        server.call(append(3000))
        wait_until(healthy.has(3001))
        assert healthy.seqs == list(range(1, 3002))
        assert [next(stalled).seq for _ in range(3000)] == list(range(2, 3002))
        stalled.close()


def test_a_slow_subscriber_does_not_think_that_the_daemon_is_lost(server: Server) -> None:
    server.call(append(2))
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        events = client.events(lost_timeout=0.5)
        next(events)
        threading.Event().wait(1.0)
        assert next(events).seq == 2
        events.close()


# ------------------------------------------------------------ restarts and kills


def test_a_live_client_survives_restarts_of_the_publisher(server: Server) -> None:
    with patient(server, 0) as subscriber:
        for round_ in range(1, 4):
            server.call(append(5))
            wait_until(subscriber.has(7 * round_ - 2))
            server.call(append(2, publish=False))
            server.stop()
            server.start()
        server.call(append(1))
        wait_until(subscriber.has(22))
    assert subscriber.seqs == list(range(1, 23))


def test_a_restarted_publisher_sends_nothing_old(server: Server) -> None:
    server.call(append(5))
    server.stop()
    server.start()
    sent: list[str] = []

    def publish(journal: Journal, publisher: Publisher) -> int:
        publisher._published = sent.append
        publisher.publish_new()
        append(1)(journal, publisher)
        return len(sent)

    assert server.call(publish) == 1


def test_a_quick_restart_that_nobody_noticed(server: Server) -> None:
    """The new server does not know the client: it has to say HELLO again by itself."""
    with Subscriber(server) as subscriber:
        subscriber.client._source = type(subscriber.client._source)(
            **{
                name: getattr(subscriber.client._source, name)
                for name in ("events", "journal", "instance", "name", "patience_s", "timeout_s")
            },
            heartbeat_s=100.0,
        )
        server.call(append(1))
        wait_until(subscriber.has(1))
        server.stop()
        server.start()
        server.call(lose(3))
        wait_until(subscriber.has(4))
    assert subscriber.seqs == [1, 2, 3, 4]


_PUBLISHER = """
import sys, time
from pathlib import Path
import zmq
from service.journal.journal import Journal
from service.wire.heartbeat import Heartbeat
from service.wire.messages import Alert
from service.publishing.publisher import Publisher
directory, events, journal_endpoint = sys.argv[1:]
journal = Journal.open(Path(directory) / "journal.sqlite")
publisher = Publisher(journal.events, events=events, journal=journal_endpoint, preview="tcp://127.0.0.1:0")
poller = zmq.Poller()
for socket in publisher.sockets:
    poller.register(socket, zmq.POLLIN)
print(publisher.events_endpoint, publisher.journal_endpoint, flush=True)
due = 0.0
while True:
    for socket, _ in poller.poll(2):
        publisher.handle(socket)
    journal.events.append(Alert(name="n", severity="info", state="raised"), "s")
    publisher.publish_new()
    if time.monotonic() > due:
        publisher.heartbeat(Heartbeat())
        due = time.monotonic() + 0.05
"""


@contextmanager
def publisher_process(server: Server) -> Iterator[None]:
    """A publisher that is killed at the end, wherever it is."""
    command = [sys.executable, "-c", _PUBLISHER, str(server.directory), server.events, server.journal]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server.events, server.journal = process.stdout.readline().split()
        try:
            yield
        finally:
            process.kill()


def test_kill_9_of_the_publisher(short_path: Path) -> None:
    """Between commit and publication is where it dies; the journal has it, and the client asks for it."""
    server = Server(short_path)
    with publisher_process(server):
        subscriber = Subscriber(server)
    with subscriber:
        for _ in range(6):
            with publisher_process(server):
                wait_until(subscriber.has(len(subscriber.got) + 50))
        with server:
            total = server.call(lambda journal, _: journal.events.last_seq)
            wait_until(subscriber.has(total))
    assert total >= 300
    assert subscriber.seqs == list(range(1, total + 1))


_SUBSCRIBER = """
import sys
from service.client import Client, FileCursor
events, journal, cursor, output = sys.argv[1:]
with open(output, "a") as file, Client(events, journal, heartbeat_s=0.05) as client:
    print("running", flush=True)
    for event in client.events(FileCursor(cursor)):
        file.write(f"{event.seq} {event.event_id}\\n")
        file.flush()
"""


def test_kill_9_of_a_subscriber_with_a_cursor_file(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.touch()
    files = [str(tmp_path / "cursor"), str(output)]
    command = [sys.executable, "-c", _SUBSCRIBER, server.events, server.journal, *files]
    kills = 0
    for kills in range(1, 9):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            before = output.stat().st_size
            server.call(append(20))
            wait_until(lambda: output.stat().st_size > before + kills * 30)  # noqa: B023
            process.kill()
    cursor = FileCursor(tmp_path / "cursor")
    total = server.call(lambda journal, _: journal.events.last_seq)
    with patient(server, 0, cursor=cursor) as subscriber:
        wait_until(lambda: (cursor.load() or ("", 0))[1] == total)
    lines = [line.split() for line in output.read_text().splitlines()]
    seqs = [int(seq) for seq, _ in lines] + subscriber.seqs
    # Nothing is missing or out of order; one event per kill may be there twice, under the same name.
    assert sorted(set(seqs)) == list(range(1, total + 1))
    assert seqs == sorted(seqs)
    assert len(seqs) - len(set(seqs)) <= kills
    assert len({event_id for _, event_id in lines}) == len({seq for seq, _ in lines})


_EXACT = """
import sqlite3, sys
from service.client import Client, SqliteCursor
events, journal, database = sys.argv[1:]
connection = sqlite3.connect(database)
connection.execute("CREATE TABLE IF NOT EXISTS results (seq INTEGER)")
cursor = SqliteCursor(connection)
with Client(events, journal, heartbeat_s=0.05) as client:
    print("running", flush=True)
    for event in client.events(cursor):
        with connection:
            connection.execute("INSERT INTO results VALUES (?)", (event.seq,))
            cursor.store(event.position)
        print(event.seq, flush=True)
"""


def test_kill_9_of_a_subscriber_that_stores_the_cursor_with_its_results(server: Server, tmp_path: Path) -> None:
    """Exactly once: the results have no duplicate and no hole, wherever it was killed."""
    command = [sys.executable, "-c", _EXACT, server.events, server.journal, str(tmp_path / "db")]
    for kill in range(6):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            server.call(append(20))
            for _ in range(1 + kill):
                process.stdout.readline()
            process.kill()
    connection = sqlite3.connect(tmp_path / "db")
    seqs = [row[0] for row in connection.execute("SELECT seq FROM results ORDER BY rowid")]
    position = SqliteCursor(connection).load()
    connection.close()
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(seqs) >= 6
    assert position is not None
    assert position.seq == seqs[-1]


def test_a_new_epoch_is_told_from_its_first_event(server: Server) -> None:
    """The journal was lost and rebuilt while a client was connected."""
    with patient(server, 0) as subscriber:
        server.call(append(5))
        wait_until(subscriber.has(5))
        server.stop()
        server.file = "rebuilt.sqlite"
        server.start()
        server.call(append(3))
        wait_until(subscriber.has(8))
    assert subscriber.seqs == [1, 2, 3, 4, 5, 1, 2, 3]
    assert len({event.epoch for event in subscriber.got}) == 2
    assert len({event.event_id for event in subscriber.got}) == 8


def test_a_cursor_of_another_epoch_starts_again(server: Server) -> None:
    server.call(append(3))
    with patient(server, 3, cursor=MemoryCursor(Position("old", 100))) as subscriber:
        pass
    assert subscriber.seqs == [1, 2, 3]


def test_a_cursor_ahead_of_the_journal_is_an_error(server: Server) -> None:
    """The journal was put back to an older copy: its numbers will be used twice."""
    epoch = server.call(lambda journal, _: journal.events.epoch)
    server.call(append(3))
    with Subscriber(server, cursor=MemoryCursor(Position(epoch, 100))) as subscriber:
        wait_until(lambda: subscriber.error)
    assert "ahead of the journal" in str(subscriber.error)


def test_a_journal_that_is_put_back_under_a_live_client_is_noticed(server: Server) -> None:
    server.call(append(3))
    with patient(server, 3) as subscriber:
        server.stop()
        shutil.copy(server.directory / server.file, server.directory / "older.sqlite")
        server.start()
        server.call(append(3))
        wait_until(subscriber.has(6))
        server.stop()
        server.file = "older.sqlite"
        server.start()
        wait_until(lambda: subscriber.error)
    assert "ahead of the journal" in str(subscriber.error)


def test_after_a_silence_the_client_introduces_itself_anew(server: Server) -> None:
    """Liveness: three heartbeats. Nothing may be taken for granted about a server that was away."""
    answered: list[str] = []

    def listen(_: Journal, publisher: Publisher) -> None:
        publisher.replies._answered = lambda verb, _: answered.append(verb)

    server.call(append(1))
    with patient(server, 1) as subscriber:
        server.beating = False
        wait_until(lambda: subscriber.heartbeats)
        server.call(listen)
        assert not threading.Event().wait(10 * BEAT)
        assert answered == []
        server.beating = True
        wait_until(lambda: answered == ["HELLO"])


def test_a_cursor_before_what_is_kept_is_an_error(server: Server) -> None:
    epoch = server.call(lambda journal, _: journal.events.epoch)
    server.call(append(10))
    with changing(server.directory / server.file) as database:
        database.execute("DELETE FROM events WHERE seq <= 5")
    with Subscriber(server, cursor=MemoryCursor(Position(epoch, 3))) as subscriber:
        wait_until(lambda: subscriber.error)
    assert "no longer kept" in str(subscriber.error)
    with patient(server, 5) as subscriber:
        pass
    assert subscriber.seqs == [6, 7, 8, 9, 10]


# ------------------------------------------------------------ time-outs


@pytest.fixture
def nobody() -> Iterator[Client]:
    with Client("tcp://127.0.0.1:1", "tcp://127.0.0.1:1", heartbeat_s=BEAT, timeout_s=0.2) as client:
        yield client


def test_time_outs_are_errors_that_say_what_to_do(nobody: Client) -> None:
    with pytest.raises(ServiceError, match=r"no heartbeat.*systemctl status"):
        nobody.heartbeat(timeout=0.2)
    with pytest.raises(ServiceError, match="no answer"):
        nobody.snapshot()
    with pytest.raises(ServiceError, match="no answer"):
        nobody.control("pause")
    with pytest.raises(ServiceError, match="no heartbeat from the daemon"):
        next(nobody.events(lost_timeout=0.2))


def test_waiting_for_a_daemon_that_comes_later(short_path: Path) -> None:
    with Server(short_path) as server:
        server.call(append(2))
    with Subscriber(server) as subscriber:
        assert not threading.Event().wait(0.3)
        server.start()
        wait_until(subscriber.has(2))
        server.stop()
    assert subscriber.seqs == [1, 2]


# ------------------------------------------------------------ control


def test_commands_go_over_ipc_and_not_over_tcp(server: Server) -> None:
    with Client(server.events, server.local, heartbeat_s=BEAT) as client:
        assert client.control("skip", movie_id="a", reason="ice") == {
            "did": "skip", "movie_id": "a", "reason": "ice"
        }  # fmt: skip
        with pytest.raises(ProtocolError) as caught:
            client.control("skip")
        assert caught.value.code == "BAD_REQUEST"
        with pytest.raises(ProtocolError):
            client.control("format", disk="c")  # type: ignore[arg-type]
    with Client(server.events, server.journal, heartbeat_s=BEAT) as client:
        with pytest.raises(ProtocolError) as caught:
            client.control("pause")
        assert caught.value.code == "FORBIDDEN"


def test_everything_else_works_over_ipc_too(server: Server) -> None:
    server.call(append(3))
    assert server.local
    with Client(server.local.replace("journal", "events"), server.local, heartbeat_s=BEAT) as client:
        assert [event.seq for event in client.events(idle_timeout=0.5)] == [1, 2, 3]


# ------------------------------------------------------------ what it needs


_ALONE = """
import sys
from importlib.abc import MetaPathFinder

class OnlyThese(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"zmq", "msgspec", "service", "streamer", *sys.stdlib_module_names}:
            return None
        raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, OnlyThese())
before = set(sys.modules)
from service.client import Client, FileCursor, SqliteCursor
from service.wire.messages import Event
import service.wire.requests
new = {name for name in sys.modules if name not in before}
assert not {"torch", "numpy", "prometheus_client", "service.journal.journal", "service.publishing.publisher"} & new, new
print("ok")
"""


def test_a_subscriber_needs_only_pyzmq_and_msgspec() -> None:
    done = subprocess.run([sys.executable, "-c", _ALONE], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr
