"""F13, F14: subscribers that stop, die or come late; strangers that scan, flood and send what they like."""

from __future__ import annotations

import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from service.client import Client, MemoryCursor
from service.journal.event_log import EventLog
from service.journal.journal import Journal
from service.publishing.replies import Replies
from service.wire.messages import CODES, Alert, Position
from service.wire.requests import Refusal, decode_reply
from streamer.runtime.clock import SYSTEM
from tests.clocks import SetClock
from tests.faults.sites import movie_bytes, put, quick
from tests.service_samples import changing
from tests.system.conftest import make_site, until  # noqa: F401 - a fixture


class Publishing:
    """A publisher in another process."""

    def __init__(self, state: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.publishing_child", str(state)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self.answer()
        self.events, self.journal = first["events"], first["journal"]

    def tell(self, words: str) -> None:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        return json.loads(self.process.stdout.readline())

    def ask(self, words: str) -> dict:
        self.tell(words)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture
def publishing(tmp_path) -> Iterator[Publishing]:
    child = Publishing(tmp_path)
    yield child
    child.close()


def child(*words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.faults.subscribing_child", *words], stdout=subprocess.PIPE)


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def test_ten_stalled_subscribers_disturb_nobody(publishing, often, report):
    n = often(1500, 10_000)
    stalled = child("stalled", publishing.events, "10")
    try:
        assert stalled.stdout.readline()
        stalled.send_signal(signal.SIGSTOP)
        latencies, seqs = [], []
        with Client(publishing.events, publishing.journal) as client:
            events = client.events(MemoryCursor(), idle_timeout=30.0)
            before = publishing.ask("memory")["memory"]
            publishing.tell(f"append {n} 200")
            for event in events:
                latencies.append(time.time() - float(event.body["message"].split()[0]))
                seqs.append(event.seq)
                if event.seq == n:
                    break
            assert publishing.answer() == {"appended": n}
            grown = publishing.ask("memory")["memory"] - before
            events.close()
    finally:
        stalled.send_signal(signal.SIGCONT)
        end(stalled)
    assert seqs == list(range(1, n + 1))
    # the first second goes by until the first heartbeat is heard; what came meanwhile is replayed
    late = sorted(latencies[400:])
    p99 = late[int(0.99 * len(late))]
    assert grown <= 100 << 20
    assert p99 <= 0.1
    figure = f"daemon + {grown / 2**20:.0f} MiB; healthy one got all, p99 {1e3 * p99:.0f} ms"
    report("F13", "ten stalled subscribers, one healthy", n=n, figure=figure, target="<= 100 MiB, p99 <= 100 ms")


def test_joining_late(tmp_path, often, report):
    n = 20_000
    Journal.open(tmp_path / "journal.sqlite").close()
    with changing(tmp_path / "journal.sqlite") as database:
        log = EventLog(database, "default", SYSTEM)
        for number in range(n):
            log.add(Alert(name=f"a{number}", severity="info", state="cleared", message="x" * 700), "")
    publishing, times = Publishing(tmp_path), []
    try:
        for _ in range(often(2, 5)):
            began, got = time.monotonic(), 0
            with Client(publishing.events, publishing.journal) as client:
                for event in client.events(MemoryCursor(), idle_timeout=10.0):
                    got += 1
                    assert event.seq == got
                    if got == n:
                        break
            times.append(time.monotonic() - began)
    finally:
        publishing.close()
    assert max(times) <= 5.0
    report("F13", "late join, 20,000 events of 1 kB", n=len(times), figure=f"{max(times):.1f} s", target="<= 5 s")


def test_subscribers_killed_again_and_again(publishing, tmp_path, often, report):
    kills, n, rng = often(10, 100), often(1000, 10_000), random.Random(5)
    database = tmp_path / "subscriber.sqlite"
    publishing.tell(f"append {n} 150")

    def count() -> int:
        try:
            with sqlite3.connect(database) as connection:
                return connection.execute("SELECT count(*) FROM got").fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    for number in range(kills):
        subscriber = child("storing", publishing.events, publishing.journal, str(database))
        threading.Event().wait(rng.uniform(0.2, 1.0))  # any moment will do
        if number % 5 == 0:
            subscriber.send_signal(signal.SIGSTOP)
            threading.Event().wait(0.5)
        end(subscriber)
    assert publishing.answer() == {"appended": n}
    subscriber = child("storing", publishing.events, publishing.journal, str(database))
    until(lambda: count() >= n, "everything to arrive")
    end(subscriber)
    with sqlite3.connect(database) as connection:
        got = [row[0] for row in connection.execute("SELECT seq FROM got ORDER BY number")]
    assert got == list(range(1, n + 1))
    report(
        "F13",
        "subscriber killed or stopped",
        n=kills,
        figure=f"{n} events, each once, in order",
        target="0 lost, 0 doubled",
    )


def test_the_daemon_killed_again_and_again_under_a_subscriber(make_site, tmp_path, often, report):  # noqa: F811
    from tests.system.test_daemon import free_ports

    kills, rng = often(4, 40), random.Random(6)
    events, journal = free_ports(2)
    site = quick(make_site, events__events_port=str(events), events__journal_port=str(journal))
    database = tmp_path / "subscriber.sqlite"
    ends = f"tcp://127.0.0.1:{events}", f"tcp://127.0.0.1:{journal}"
    subscriber = child("storing", *ends, str(database))
    try:
        for number in range(kills):
            put(site.root, f"m{number}.mrc", movie_bytes(tmp_path, number))
            daemon = site.start()
            threading.Event().wait(rng.uniform(0.5, 2.5))  # any moment will do
            daemon.kill()
            daemon.wait()
        daemon = site.start()
        until(lambda: site.counts().get("done", 0) + site.counts().get("quarantined", 0) == kills, "the movies")
        assert site.stop(daemon) == 0
        daemon = site.start()
        with site.journal() as opened:
            last = opened.events.last_seq

        def newest() -> int:
            with sqlite3.connect(database) as connection:
                return connection.execute("SELECT max(seq) FROM got").fetchone()[0] or 0

        until(lambda: newest() >= last, "the subscriber")
        assert site.stop(daemon) == 0
    finally:
        end(subscriber)
    with sqlite3.connect(database) as connection:
        got = [row[0] for row in connection.execute("SELECT seq FROM got ORDER BY number")]
    assert got == list(range(1, len(got) + 1))
    report(
        "F13", "daemon killed under a subscriber", n=kills, figure=f"{len(got)} events, each once, in order", target="0"
    )


def hostile(rng: random.Random) -> list[bytes]:
    """Something that a stranger may send."""
    verbs = [b"HELLO", b"SNAPSHOT", b"REPLAY", b"PING", b"CONTROL", b"PICKS", b"", b"GET", b"hello", b"\xff" * 9]
    bodies = [
        b"", b"{}", b"[]", b"null", b"{", b'{"versions":[1]}', b'{"versions":["1"]}', b'{"from":1}', b'{"from":-1}',
        b'{"from":9223372036854775808}', b'{"from":1,"max":1e9}', b'{"from":NaN}', b"[" * 20_000, b'{"a":' * 3000,
        b'{"page":1}', b'{"kinds":["x"]}', b'{"verb":"retry","arguments":{"movie_id":"x"}}', b'{"verb":"rm"}',
        b'{"movie_id":"a","revision":1,"picker":"../x","coordinates":[[1,2]]}', b'{"coordinates":[[1e999,0]]}',
        b'{"session":"' + b"\\ud800" * 50 + b'"}', bytes(rng.randrange(256) for _ in range(rng.randrange(64))),
    ]  # fmt: skip
    if rng.random() < 0.02:
        return [b"CONTROL", b'{"verb":"retry","arguments":{"movie_id":"x"}}']
    body = bytearray(rng.choice(bodies))
    for _ in range(rng.randrange(3)):
        if body:
            body[rng.randrange(len(body))] = rng.randrange(256)
    frames = [rng.choice(verbs), bytes(body)]
    return frames if rng.random() < 0.9 else frames[: rng.randrange(2)] + [b"x"] * rng.randrange(4)


def test_hostile_requests(tmp_path, often, report):
    n, rng, now = often(5_000, 100_000), random.Random(14), SetClock()
    journal = Journal.open(tmp_path / "journal.sqlite")
    journal.events.append(Alert(name="a", severity="info", state="cleared"))

    def carry_out(*_: object) -> dict:
        raise AssertionError("a stranger reached a command")

    server, codes, slowest = Replies(journal.events, control=carry_out, picks=carry_out, clock=now), {}, 0.0
    for number in range(n):
        now.now += 0.05
        peer = number.to_bytes(4, "big") if number % 3 else b"same"
        if number % 3 == 0:
            server.answer(peer, [b"HELLO", b'{"versions":[1]}'], local=False)
        began = time.perf_counter()
        replies = server.answer(peer, hostile(rng), local=False)
        slowest = max(slowest, time.perf_counter() - began)
        last = decode_reply(replies[-1])
        code = last.code if isinstance(last, Refusal) else "ok"
        assert code == "ok" or code in CODES
        codes[code] = codes.get(code, 0) + 1
    journal.close()
    assert {"ok", "BAD_REQUEST", "FORBIDDEN"} <= codes.keys()
    figure = f"0 deaths, every answer valid, slowest {1e3 * slowest:.0f} ms"
    report("F14", "fuzzed requests", n=n, figure=figure, target="0 deaths")


def test_a_port_scan_and_garbage(publishing, often, report):
    """Raw connections held open, garbage, a subscription and a request that are too long; a client all the while."""
    n, rng = often(60, 300), random.Random(9)
    ports = [int(end.rsplit(":", 1)[1]) for end in (publishing.events, publishing.journal)]
    before = publishing.ask("files")["files"]
    held = [socket.create_connection(("127.0.0.1", rng.choice(ports))) for _ in range(50)]
    publishing.tell("append 200 100")
    garbage = [b"", b"GET / HTTP/1.0\r\n\r\n", rng.randbytes(200), b"\xff" + b"\0" * 8 + b"\x7f\x03"]
    for _ in range(n):
        with socket.create_connection(("127.0.0.1", rng.choice(ports))) as one:
            one.sendall(rng.choice(garbage))
    context = zmq.Context()
    sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    sub.connect(publishing.events)
    sub.subscribe(b"y" * 5000)
    dealer.connect(publishing.journal)
    dealer.send_multipart([b"HELLO", b" " * 70_000])
    with Client(publishing.events, publishing.journal) as client:
        got = []
        for event in client.events(MemoryCursor(Position("", 0)), idle_timeout=20.0):
            got.append(event.seq)
            if event.seq == 200:
                break
    assert got == list(range(1, 201))
    assert publishing.answer() == {"appended": 200}
    context.destroy(linger=0)
    for one in held:
        one.close()
    until(lambda: publishing.ask("files")["files"] <= before, "the descriptors to be given back", 60.0)
    after = publishing.ask("files")["files"]
    assert publishing.process.poll() is None
    figure = f"a client got 200 of 200; descriptors {before} before, {after} after"
    report("F14", "port scan, garbage, 50 held connections, oversize", n=n, figure=figure, target="no death, no leak")
