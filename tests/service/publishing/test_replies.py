from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.publishing.replies import MAX_CLIENTS, REQUESTS_PER_S, Replies
from service.wire.messages import CODES, Alert, Event
from service.wire.requests import (
    CONTROL_VERBS,
    PAGE_BYTES,
    REQUEST_BYTES,
    Done,
    End,
    Pong,
    Refusal,
    Reply,
    Welcome,
    decode_reply,
)
from streamer.errors import ServiceError, UsageError
from tests.clocks import SetClock
from tests.service_samples import changing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from service.journal.journal import Journal


class Asker:
    """A client without a network."""

    def __init__(self, journal: Journal, control: Any = lambda verb, arguments: {"verb": verb, **arguments}) -> None:
        self.clock, self.seen = SetClock(100.0), []  # type: ignore[var-annotated]
        self.replies = Replies(
            journal.events, control=control, clock=self.clock, answered=lambda *told: self.seen.append(told)
        )

    def raw(self, *frames: bytes, peer: bytes = b"me", local: bool = False) -> list[Event | Reply]:
        self.clock.now += 1.0
        return [decode_reply(message) for message in self.replies.answer(peer, frames, local=local)]

    def ask(self, kind: str, /, *, local: bool = False, peer: bytes = b"me", **fields: Any) -> list[Event | Reply]:
        return self.raw(kind.encode(), json.dumps(fields).encode(), local=local, peer=peer)

    def hello(self, **fields: Any) -> Event | Reply:
        return self.ask("HELLO", **{"versions": [1], "client": "test", **fields})[0]

    def code(self, kind: str, /, **fields: Any) -> str:
        reply = self.ask(kind, **fields)[0]
        assert isinstance(reply, Refusal), reply
        return reply.code


@pytest.fixture
def asker(journal: Journal) -> Asker:
    for i in range(5):
        journal.events.append(Alert(name=str(i), severity="info", state="raised"), "s")
    asker = Asker(journal)
    asker.hello()
    return asker


def test_hello(asker: Asker, journal: Journal) -> None:
    welcome = asker.hello(epoch=journal.events.epoch, seq=3, novel=1)
    assert isinstance(welcome, Welcome)
    assert (welcome.version, welcome.epoch, welcome.first_seq, welcome.last_seq) == (1, journal.events.epoch, 1, 5)
    assert welcome.limits["page_events"] == 256


def test_hello_with_a_version_that_is_not_spoken(asker: Asker) -> None:
    assert asker.code("HELLO", versions=[2, 3]) == "BAD_VERSION"


def test_hello_with_an_old_epoch(asker: Asker) -> None:
    assert asker.code("HELLO", versions=[1], epoch="old") == "EPOCH_CHANGED"


@pytest.mark.parametrize("verb", ["SNAPSHOT", "REPLAY", "CONTROL"])
def test_the_first_message_is_hello(journal: Journal, verb: str) -> None:
    fields = {"REPLAY": {"from": 1}, "CONTROL": {"verb": "pause"}}.get(verb, {})
    asker = Asker(journal)
    reply = asker.ask(verb, **fields, local=True)[0]
    assert isinstance(reply, Refusal)
    assert "HELLO" in reply.message
    asker.ask("HELLO", versions=[1], local=True)
    assert not isinstance(asker.ask(verb, **fields, local=True)[0], Refusal)


def test_ping_needs_no_hello(journal: Journal) -> None:
    assert Asker(journal).raw(b"PING") == [Pong(seq=0)]


def test_replay_gives_the_published_bytes_and_where_to_go_on(asker: Asker, journal: Journal) -> None:
    replies = asker.ask("REPLAY", **{"from": 2, "max": 2})
    events = [reply for reply in replies if isinstance(reply, Event)]
    assert [event.raw for event in events] == [row.raw for row in journal.events.page(2, 2)]
    assert replies[-1] == End(epoch=journal.events.epoch, last_seq=5, next=4)
    assert asker.ask("REPLAY", **{"from": 4})[-1] == End(epoch=journal.events.epoch, last_seq=5, next=6)
    assert asker.ask("REPLAY", **{"from": 6}) == [End(epoch=journal.events.epoch, last_seq=5, next=6)]


def test_replay_of_some_kinds_goes_over_the_others(asker: Asker, journal: Journal) -> None:
    assert asker.ask("REPLAY", **{"from": 1, "kinds": ["movie"]}) == [
        End(epoch=journal.events.epoch, last_seq=5, next=6)
    ]


def test_replay_pages_are_limited_in_bytes(asker: Asker, journal: Journal) -> None:
    for _ in range(40):
        journal.events.append(Alert(name="x", severity="info", state="raised", message="y" * 60_000), "s")
    seqs, next_seq = [], 1
    while next_seq <= journal.events.last_seq:
        page = asker.replies.answer(b"me", [b"REPLAY", b'{"from":%d}' % next_seq], local=False)
        asker.clock.now += 1.0
        assert sum(len(frame) for frame in page[:-1]) <= PAGE_BYTES + 3 * len(page)
        seqs += [json.loads(event)["seq"] for _, event in page[:-1]]
        next_seq = json.loads(page[-1][1])["next"]
    assert seqs == list(range(1, journal.events.last_seq + 1))


def test_replay_that_cannot_be(asker: Asker, journal: Journal, tmp_path: Path) -> None:
    assert asker.code("REPLAY", **{"from": 1, "max": 257}) == "TOO_LARGE"
    assert asker.code("REPLAY", **{"from": 7}) == "BAD_REQUEST"
    assert asker.code("REPLAY", **{"from": 0}) == "BAD_REQUEST"
    assert asker.code("REPLAY", **{"from": 2**70}) == "BAD_REQUEST"
    assert asker.code("REPLAY", **{"from": 1, "epoch": "old"}) == "EPOCH_CHANGED"
    with changing(tmp_path / "journal.sqlite") as database:
        database.execute("DELETE FROM events WHERE seq <= 2")
    assert asker.code("REPLAY", **{"from": 2}) == "TOO_OLD"
    assert isinstance(asker.ask("REPLAY", **{"from": 3})[-1], End)


def test_snapshot_pages(asker: Asker, journal: Journal) -> None:
    for i in range(600):
        journal.events.append(Alert(name=f"n{i % 300}", severity="info", state="raised"), "t")
    names, page = [], 0
    while page is not None:
        replies = asker.ask("SNAPSHOT", page=page, session="t")
        names += [reply.body["name"] for reply in replies if isinstance(reply, Event)]
        assert len(replies) <= 257
        end = replies[-1]
        assert isinstance(end, End)
        page = end.next_page
    assert names == [f"n{i}" for i in range(300)]
    assert end.seq == journal.events.last_seq


def test_requests_per_second_are_limited_for_each_client(journal: Journal) -> None:
    asker = Asker(journal)

    def ping(peer: bytes) -> bool:
        reply = decode_reply(asker.replies.answer(peer, [b"PING"], local=False)[0])
        assert isinstance(reply, Pong) or reply.code == "RATE"  # type: ignore[union-attr]
        return isinstance(reply, Pong)

    assert sum(ping(b"greedy") for _ in range(500)) == REQUESTS_PER_S
    assert ping(b"modest")
    asker.clock.now += 0.11
    assert sum(ping(b"greedy") for _ in range(500)) == REQUESTS_PER_S // 10


def test_the_number_of_clients_that_are_remembered_is_limited(journal: Journal) -> None:
    asker = Asker(journal)
    for i in range(3 * MAX_CLIENTS):
        asker.replies.answer(b"%d" % i, [b"PING"], local=False)
    assert len(asker.replies._clients) == MAX_CLIENTS


# ------------------------------------------------------------ control


@pytest.mark.parametrize("verb", CONTROL_VERBS)
def test_commands_are_refused_except_on_the_local_socket(asker: Asker, verb: str) -> None:
    arguments = {"retry": {"movie_id": "a"}, "skip": {"movie_id": "a"}, "promote": {"version": "v1"}}.get(verb, {})
    request = {"verb": verb, "arguments": arguments}
    assert asker.code("CONTROL", **request) == "FORBIDDEN"
    asker.ask("HELLO", versions=[1], local=True)
    assert asker.ask("CONTROL", **request, local=True) == [Done(result={"verb": verb, **arguments})]


def test_a_greeting_over_tcp_does_not_count_on_the_local_socket(asker: Asker) -> None:
    reply = asker.ask("CONTROL", verb="pause", local=True)[0]
    assert isinstance(reply, Refusal)
    assert reply.code == "BAD_REQUEST"


@pytest.mark.parametrize(
    "request_fields",
    [
        {"verb": "format"},
        {"verb": "retry"},
        {"verb": "retry", "arguments": {"movie_id": 3}},
        {"verb": "retry", "arguments": {"movie_id": "a", "rm": "-rf"}},
        {"verb": "pause", "arguments": []},
        {},
    ],
)
def test_commands_are_checked_before_anybody_sees_them(journal: Journal, request_fields: dict[str, Any]) -> None:
    asker = Asker(journal, control=lambda *_: pytest.fail("was called"))
    asker.ask("HELLO", versions=[1], local=True)
    reply = asker.ask("CONTROL", **request_fields, local=True)[0]
    assert isinstance(reply, Refusal)
    assert reply.code == "BAD_REQUEST"


def test_a_command_that_cannot_be_carried_out(journal: Journal) -> None:
    def control(verb: str, _: Mapping[str, str]) -> dict[str, Any]:
        raise {"pause": UsageError("not now"), "resume": ServiceError("disk")}[verb]

    asker = Asker(journal, control=control)
    asker.ask("HELLO", versions=[1], local=True)
    reply = asker.ask("CONTROL", verb="pause", local=True)[0]
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.message) == ("BAD_REQUEST", "not now")
    # An error of the daemon's own journal is not the client's business.
    with pytest.raises(ServiceError, match="disk"):
        asker.ask("CONTROL", verb="resume", local=True)


def test_commands_while_the_daemon_is_not_ready_for_them(journal: Journal) -> None:
    asker = Asker(journal, control=None)
    asker.ask("HELLO", versions=[1], local=True)
    reply = asker.ask("CONTROL", verb="pause", local=True)[0]
    assert isinstance(reply, Refusal)
    assert reply.code == "BUSY"


# ------------------------------------------------------------ hostile input


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"NONSENSE"],
        [b"HELLO"],
        [b"HELLO", b""],
        [b"HELLO", b"{"],
        [b"HELLO", b"null"],
        [b"HELLO", b"[" * 10_000],
        [b"HELLO", b'{"versions":"1"}'],
        [b"HELLO", b'{"versions":[1.5]}'],
        [b"HELLO", b'{"versions":[' + b"1," * 100 + b"1]}"],
        [b"", b"HELLO", b"{}"],
        [b"REPLAY", b'{"from":NaN}'],
        [b"PING", b"{}", b"blob"],
        [b"\xff" * 100, b"{}"],
        [b"HELLO", b'{"versions":[1],"client":"\\ud800"}', b""],
    ],
)
def test_malformed_requests(asker: Asker, frames: list[bytes]) -> None:
    replies = asker.raw(*frames)
    assert len(replies) == 1
    assert isinstance(replies[0], Refusal)
    assert replies[0].code == "BAD_REQUEST"


def test_a_request_that_is_too_long(asker: Asker) -> None:
    reply = asker.raw(b"HELLO", b'{"versions":[1],"client":"%s"}' % (b"x" * REQUEST_BYTES))[0]
    assert isinstance(reply, Refusal)
    assert reply.code == "TOO_LARGE"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["versions", "client", "epoch", "seq", "kinds", "session", "page", "from", "max", "verb", "arguments"]
    ),
    JSON | st.integers(-1, 400) | st.just([1]) | st.lists(st.sampled_from(["movie", "alert"])),
    max_size=6,
)
VERBS = st.sampled_from([b"HELLO", b"SNAPSHOT", b"REPLAY", b"PING", b"CONTROL"])
REQUESTS = st.lists(st.binary(max_size=30), max_size=4) | st.tuples(
    VERBS | st.binary(max_size=10),
    FIELDS.map(lambda fields: json.dumps(fields).encode()) | st.binary(max_size=50),
).map(list)


@given(requests=st.lists(st.tuples(REQUESTS, st.booleans()), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_request_gets_a_valid_answer(asker: Asker, requests: list[tuple[list[bytes], bool]]) -> None:
    for frames, local in requests:
        replies = asker.raw(*frames, local=local)
        assert replies
        assert all(isinstance(reply, Event) for reply in replies[:-1])
        last = replies[-1]
        assert not isinstance(last, Event)
        if isinstance(last, Refusal):
            assert last.code in CODES
        assert asker.seen[-1][1] in ("ok", *CODES)


@pytest.mark.parametrize(
    "frames",
    [
        [b"SNAPSHOT", b'{"session":"\\ud800"}'],
        [b"SNAPSHOT", b'{"kinds":["\\udfff"]}'],
        [b"REPLAY", b'{"from":1,"kinds":["\\uD812"]}'],
    ],
)
def test_half_characters_never_reach_the_journal(asker: Asker, frames: list[bytes]) -> None:
    (reply,) = asker.replies.answer(b"peer", [b"HELLO", b'{"versions":[1]}'], local=False)
    assert reply[0] == b"WELCOME"
    ((verb, body),) = asker.replies.answer(b"peer", frames, local=False)
    assert (verb, json.loads(body)["code"]) == (b"ERROR", "BAD_REQUEST")
