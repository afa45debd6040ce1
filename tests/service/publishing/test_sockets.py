"""The sockets themselves: who may reach them, and what strangers can do to them."""

from __future__ import annotations

import random
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from service.client import Client
from service.publishing.publisher import Publisher
from service.wire.heartbeat import Heartbeat, parse_heartbeat
from service.wire.messages import Alert, SessionChange, instance_topic, parse_topic
from service.wire.requests import Pong, decode_reply
from streamer.errors import ConfigError, ServiceError
from tests.service_samples import Server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.journal.journal import Journal

ANY = "tcp://127.0.0.1:0"


@pytest.fixture
def publisher(journal: Journal, short_path: Path) -> Iterator[Publisher]:
    made = Publisher(journal.events, events=ANY, journal=ANY, preview=ANY, runtime_directory=short_path / "run" / "a")
    yield made
    made.close()


# ------------------------------------------------------------ binding


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.5", "[::]", "eth0", "example.org", "169.254.0.1"])
@pytest.mark.parametrize("which", ["events", "journal", "preview"])
def test_binding_beyond_loopback_is_refused(journal: Journal, host: str, which: str) -> None:
    with pytest.raises(ConfigError, match="not secured by keys yet") as caught:
        Publisher(journal.events, **{"events": ANY, "journal": ANY, "preview": ANY, which: f"tcp://{host}:0"})
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/x", "127.0.0.1:5570", "tcp://127.0.0.1", "tcp://127.0.0.1:x", ""])
def test_what_is_not_an_endpoint(journal: Journal, endpoint: str) -> None:
    with pytest.raises(ConfigError):
        Publisher(journal.events, events=endpoint, journal=ANY, preview=ANY)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_loopback_is_allowed_and_the_port_is_reported(journal: Journal, host: str) -> None:
    publisher = Publisher(journal.events, events=f"tcp://{host}:0", journal=ANY, preview=ANY)
    assert publisher.events_endpoint.startswith("tcp://127.0.0.")
    assert int(publisher.events_endpoint.rpartition(":")[2]) > 0
    assert publisher.journal_endpoint != publisher.events_endpoint
    publisher.close()


def test_a_port_that_is_taken(journal: Journal, publisher: Publisher) -> None:
    with pytest.raises(ServiceError, match="another instance") as caught:
        Publisher(journal.events, events=publisher.events_endpoint, journal=ANY, preview=ANY)
    assert caught.value.exit_code == 74


def test_socket_files_are_for_user_and_group_only(publisher: Publisher, short_path: Path) -> None:
    directory = short_path / "run" / "a"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    for name in ("events.sock", "journal.sock"):
        mode = (directory / name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
    publisher.close()
    assert list(directory.iterdir()) == []


def test_socket_files_that_a_killed_daemon_left_are_replaced(journal: Journal, short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short_path / "events.sock"))
    publisher = Publisher(journal.events, events=ANY, journal=ANY, preview=ANY, runtime_directory=short_path)
    assert publisher.events_local == f"ipc://{short_path}/events.sock"
    publisher.close()


def test_a_path_too_long_for_a_socket(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        Publisher(journal.events, events=ANY, journal=ANY, preview=ANY, runtime_directory=tmp_path / ("x" * 100))


def test_limits_of_the_sockets(publisher: Publisher) -> None:
    """reliability.md 1.2, to the letter."""
    events, journal, local, preview = publisher.sockets
    assert preview.get(zmq.SNDHWM) == 4
    assert events.get(zmq.SNDHWM) == 1000
    assert events.get(zmq.MAXMSGSIZE) == 4096
    for router in (journal, local):
        assert router.get(zmq.SNDHWM) == 256
        assert router.get(zmq.MAXMSGSIZE) == 65536
    for each in publisher.sockets:
        assert each.get(zmq.LINGER) == 1000
        assert each.get(zmq.HANDSHAKE_IVL) == 5000
        assert each.get(zmq.HEARTBEAT_IVL) == 5000
        assert each.get(zmq.HEARTBEAT_TIMEOUT) == 15000


# ------------------------------------------------------------ publishing


def test_what_is_sent(journal: Journal, publisher: Publisher) -> None:
    context = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.connect(publisher.events_endpoint)
    subscriber.subscribe(instance_topic("default"))
    events = publisher.sockets[0]
    assert events.poll(5000)
    publisher.handle(events)
    assert publisher.subscribers == 1
    event = journal.events.append(SessionChange(state="started"), "grid1")
    assert publisher.publish_new() == 1
    assert publisher.publish_new() == 0
    sent = publisher.heartbeat(Heartbeat(state="running", pending=3))
    assert subscriber.recv_multipart() == [b"v1/default/session/grid1/", event.raw]
    topic, raw = subscriber.recv_multipart()
    assert parse_topic(topic).kind == "hb"
    assert parse_heartbeat(raw) == sent
    assert (sent.seq, sent.epoch, sent.kseq, sent.pending) == (1, journal.events.epoch, {"session/grid1": 1}, 3)
    assert sent.instance == "default"
    context.destroy(linger=0)


def test_what_the_journal_held_before_is_not_sent(journal: Journal) -> None:
    journal.events.append(SessionChange(state="started"))
    publisher = Publisher(journal.events, events=ANY, journal=ANY, preview=ANY)
    assert publisher.publish_new() == 0
    journal.events.append(SessionChange(state="stopped"))
    assert publisher.publish_new() == 1
    publisher.close()


def test_a_heartbeat_never_runs_ahead_of_the_events(journal: Journal, publisher: Publisher) -> None:
    published: list[str] = []
    publisher._published = published.append
    journal.events.append(SessionChange(state="started"))
    assert publisher.heartbeat(Heartbeat()).seq == 1
    assert published == ["session"]


def test_an_answer_is_abandoned_when_its_reader_does_not_read(
    journal: Journal, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROUTER_MANDATORY: without it everything would be accepted, and most of it dropped in silence."""
    rest = iter([[b"EV", b"x" * 10_000]] * 20_000)
    monkeypatch.setattr(publisher.replies, "answer", lambda *_, **__: rest)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.rcvhwm = 1
    dealer.connect(publisher.journal_endpoint)
    dealer.send_multipart([b"REPLAY"])
    journal_socket = publisher.sockets[1]
    assert journal_socket.poll(5000)
    publisher.handle(journal_socket)
    assert 200 < 20_000 - len(list(rest)) < 19_999
    context.destroy(linger=0)


def test_a_heartbeat_that_is_too_long_is_cut_to_what_subscribers_live_on(
    journal: Journal, publisher: Publisher
) -> None:
    alarms = [Alert(name=f"n{i}", severity="info", state="raised", message="x" * 1000) for i in range(100)]
    sent = publisher.heartbeat(Heartbeat(state="paused", pending=7, alarms=alarms))
    assert (sent.epoch, sent.state, sent.pending, sent.alarms) == (journal.events.epoch, "paused", 7, [])


def test_a_flood_of_requests_does_not_hold_up_the_loop(
    journal: Journal, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(publisher.journal_endpoint)
    for _ in range(500):
        dealer.send_multipart([b"PING"])
    waited = threading.Event()
    answer = publisher.replies.answer
    monkeypatch.setattr(publisher.replies, "answer", lambda *a, **k: (waited.wait(0.01), answer(*a, **k))[1])
    journal_socket = publisher.sockets[1]
    assert journal_socket.poll(5000)
    begin = time.monotonic()
    publisher.handle(journal_socket)
    assert time.monotonic() - begin < 1.0
    assert journal_socket.poll(0)
    context.destroy(linger=0)


def test_a_client_that_does_not_read_its_answers_blocks_nobody(server: Server) -> None:
    server.call(
        lambda journal, _: [
            journal.events.append(Alert(name="n", severity="i", state="r", message="x" * 20_000), "s")
            for _ in range(300)
        ]
    )
    context = zmq.Context()
    lazy = context.socket(zmq.DEALER)
    lazy.set(zmq.RCVHWM, 1)
    lazy.connect(server.journal)
    lazy.send_multipart([b"HELLO", b'{"versions":[1]}'])
    for _ in range(40):
        lazy.send_multipart([b"REPLAY", b'{"from":1,"max":50}'])
    with Client(server.events, server.journal, heartbeat_s=0.05) as client:
        assert len(list(client.events(idle_timeout=0.5))) == 300
    context.destroy(linger=0)


# ------------------------------------------------------------ strangers


def raw_bytes(endpoint: str, data: bytes) -> None:
    host, port = endpoint.removeprefix("tcp://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(data)
    except ConnectionError:
        pass  # Being thrown out is a fine answer.


def zmtp_garbage(rng: random.Random) -> bytes:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    return rng.choice(
        [
            rng.randbytes(rng.randint(0, 300)),
            b"GET / HTTP/1.1\r\n\r\n",
            greeting,
            greeting + rng.randbytes(100),
            b"\xff" * 5000,
            b"\x01\x00",
            b"",
        ]
    )


def hostile_requests(rng: random.Random) -> Iterator[list[bytes]]:
    bits = [
        b"HELLO",
        b"REPLAY",
        b"SNAPSHOT",
        b"CONTROL",
        b"PING",
        b"",
        b"{}",
        b"null",
        b"[" * 5000,
        b'{"from":-1}',
    ]
    bits += [
        b'{"versions":[1]}',
        b'{"verb":"pause"}',
        b"\xff\xfe",
        b'{"from":1,"max":1000000}',
        b"x" * 60_000,
    ]
    for _ in range(300):
        yield [rng.choice([*bits, rng.randbytes(20)]) for _ in range(rng.randint(1, 4))]


class Strangers:
    """Clients that do what they should not, with sockets that are closed afterwards."""

    def __init__(self, server: Server) -> None:
        self.server, self.rng = server, random.Random(7)
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def connected(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        self._sockets.append(self._context.socket(kind))
        self._sockets[-1].linger = 100
        self._sockets[-1].connect(endpoint)
        return self._sockets[-1]

    def attack(self) -> None:
        """Garbage, held connections, wrong kinds of sockets and hostile requests, a few hundred of each."""
        port = int(self.server.journal.rpartition(":")[2])
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for _ in range(150):
            raw_bytes(self.server.events, zmtp_garbage(self.rng))
            raw_bytes(self.server.journal, zmtp_garbage(self.rng))
        for kind in (zmq.XSUB, zmq.PUSH, zmq.DEALER, zmq.REQ):
            for endpoint in (self.server.events, self.server.journal):
                self._misuse(self.connected(kind, endpoint))
        for endpoint in (self.server.journal, self.server.local):
            self._ask_nonsense(endpoint)
        for each in (*held, *self._sockets):
            each.close()
        self._context.term()

    def _misuse(self, wrong: zmq.Socket[bytes]) -> None:
        for frame in (b"\x01" + b"t" * 5000, b"\x01", b"\x00nothing", b"\x02", b"", b"x" * 70_000):
            try:
                wrong.send_multipart([frame, frame], zmq.DONTWAIT)
            except zmq.ZMQError:
                pass

    def _ask_nonsense(self, endpoint: str) -> None:
        for number, frames in enumerate(hostile_requests(self.rng)):
            if number % 20 == 0:
                dealer = self.connected(zmq.DEALER, endpoint)
            dealer.send_multipart(frames)
        dealer.send_multipart([b"HELLO", b"x" * 70_000])


def test_strangers_do_not_disturb_a_healthy_client(server: Server) -> None:
    got: list[int] = []
    stop = threading.Event()
    client = Client(server.events, server.journal, heartbeat_s=0.05, timeout_s=1.0)
    events = client.events(stop=stop)
    listener = threading.Thread(target=lambda: got.extend(event.seq for event in events))
    attacker = threading.Thread(target=Strangers(server).attack)
    listener.start()
    attacker.start()
    n = 0
    while attacker.is_alive() or n < 200:
        server.call(lambda journal, _: journal.events.append(SessionChange(state="x"), "s"))
        n += 1
    attacker.join()
    wait_until(lambda: len(got) >= n)
    stop.set()
    listener.join()
    assert got == list(range(1, n + 1))
    assert len(client.snapshot().events) == 1
    client.close()
    with Client(server.events, server.local, heartbeat_s=0.05) as local:
        assert local.control("pause") == {"did": "pause"}


def test_strangers_leave_no_open_files(server: Server) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def ping() -> Any:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(server.journal)
        dealer.send_multipart([b"PING"])
        assert dealer.poll(5000)
        reply = decode_reply(dealer.recv_multipart())
        context.destroy(linger=0)
        return reply

    ping()
    before = n_open()
    rng = random.Random(3)
    for _ in range(100):
        raw_bytes(server.events, zmtp_garbage(rng))
        raw_bytes(server.journal, zmtp_garbage(rng))
    assert isinstance(ping(), Pong)
    wait_until(lambda: n_open() <= before + 2)


def test_an_oversize_subscription_and_an_oversize_request_throw_out_their_sender_only(server: Server) -> None:
    context = zmq.Context()
    big = context.socket(zmq.SUB)
    big.connect(server.events)
    big.subscribe(b"v1/default/" + b"x" * 5000)
    dealer = context.socket(zmq.DEALER)
    dealer.connect(server.journal)
    dealer.send_multipart([b"HELLO", b'{"versions":[1],"client":"' + b"x" * 70_000 + b'"}'])
    assert not dealer.poll(300)
    with Client(server.events, server.journal, heartbeat_s=0.05) as client:
        server.call(lambda journal, _: journal.events.append(SessionChange(state="x"), "s"))
        assert [event.seq for event in client.events(idle_timeout=0.5)] == [1]
    context.destroy(linger=0)
