"""Requests and replies of the JOURNAL socket, protocol v1.

A client's DEALER sends frames [verb, JSON]; the answer is one such message, or a page: ROW or EV messages
[verb, event as published] and an END. Anything malformed raises ``ProtocolError`` with the code of the reply.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta, Struct

from service.wire.messages import HEADER_BYTES, Event, ProtocolError, converted, decode_json, parse_event
from streamer import jsontext

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST_BYTES = 16 * 1024
PAGE_EVENTS = 256
PAGE_BYTES = 1024 * 1024
ControlVerb = Literal["pause", "resume", "retry", "skip", "promote", "rollback"]
CONTROL_VERBS: tuple[str, ...] = get_args(ControlVerb)
_ARGUMENTS: dict[str, tuple[set[str], set[str]]] = {
    "pause": (set(), {"reason"}),
    "resume": (set(), set()),
    "retry": ({"movie_id"}, set()),
    "skip": ({"movie_id"}, {"reason"}),
    "promote": ({"version"}, {"session"}),
    "rollback": (set(), {"version", "session"}),
}

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
Seq = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Kinds = Annotated[list[Annotated[str, Meta(max_length=16)]], Meta(max_length=16)]


class Hello(Struct, frozen=True, kw_only=True):
    """First message of every client."""

    verb: ClassVar[bytes] = b"HELLO"
    versions: Annotated[list[int], Meta(min_length=1, max_length=16)]
    client: Annotated[str, Meta(max_length=128)] = ""
    epoch: Annotated[str, Meta(max_length=64)] | None = None
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class SnapshotRequest(Struct, frozen=True, kw_only=True):
    """Asks for the latest event of every movie, model version, alert and session."""

    verb: ClassVar[bytes] = b"SNAPSHOT"
    kinds: Kinds | None = None
    session: Annotated[str, Meta(max_length=1024)] | None = None
    page: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """``next_page`` of the previous END; 0 for the first."""


class ReplayRequest(Struct, frozen=True, kw_only=True, rename={"from_seq": "from"}):
    """Asks for events in order, byte for byte as they were published."""

    verb: ClassVar[bytes] = b"REPLAY"
    from_seq: Seq
    max: Annotated[int, Meta(ge=1)] = PAGE_EVENTS
    kinds: Kinds | None = None
    epoch: Annotated[str, Meta(max_length=64)] | None = None
    """If given, another epoch is answered with EPOCH_CHANGED."""


class Ping(Struct, frozen=True):
    """Asks for a sign of life."""

    verb: ClassVar[bytes] = b"PING"


class Control(Struct, frozen=True, kw_only=True, rename={"action": "verb"}):
    """An operator's command; accepted on the local ipc socket only."""

    verb: ClassVar[bytes] = b"CONTROL"
    action: ControlVerb
    arguments: dict[str, str] = {}

    def __post_init__(self) -> None:
        required, optional = _ARGUMENTS[self.action]
        if not required <= self.arguments.keys() <= required | optional:
            raise ValueError(f"{self.action} needs {sorted(required)} and may have {sorted(optional)}")


class Picks(Struct, frozen=True, kw_only=True):
    """A picker submits the particles of a movie; accepted on the local ipc socket only."""

    verb: ClassVar[bytes] = b"PICKS"
    movie_id: Annotated[str, Meta(max_length=64)]
    revision: Annotated[int, Meta(ge=1)]
    picker: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
    """Who found them; one set per picker is kept for a movie."""
    coordinates: list[tuple[float, float]]
    """x and y in px of the micrograph as written, from its first row, which is the bottom one."""
    scores: list[float] | None = None
    """As many as there are coordinates."""
    diameter_angstrom: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.scores is not None and len(self.scores) != len(self.coordinates):
            raise ValueError(f"{len(self.coordinates)} coordinates and {len(self.scores)} scores")


class Welcome(Struct, frozen=True, kw_only=True):
    """Answer to HELLO."""

    verb: ClassVar[bytes] = b"WELCOME"
    version: int
    epoch: str
    first_seq: int
    """First event that is still kept; ``last_seq + 1`` if there is none."""
    last_seq: int
    limits: dict[str, int] = {}


class End(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Last message of a page of ROW or EV."""

    verb: ClassVar[bytes] = b"END"
    epoch: str
    last_seq: int
    seq: int | None = None
    """SNAPSHOT: the rows cover everything up to here."""
    next_page: int | None = None
    next: int | None = None
    """REPLAY: what to ask for next; more than ``last_seq`` when there is no more."""


class Pong(Struct, frozen=True, kw_only=True):
    """Answer to PING."""

    verb: ClassVar[bytes] = b"PONG"
    seq: int


class Done(Struct, frozen=True, kw_only=True):
    """Answer to CONTROL and PICKS."""

    verb: ClassVar[bytes] = b"OK"
    result: dict[str, Any] = {}


class Refusal(Struct, frozen=True, kw_only=True):
    """Answer to any request that is not carried out."""

    verb: ClassVar[bytes] = b"ERROR"
    code: str
    message: str = ""


Request = Hello | SnapshotRequest | ReplayRequest | Ping | Control | Picks
Reply = Welcome | End | Pong | Done | Refusal
EV, ROW = b"EV", b"ROW"
_REQUESTS: dict[bytes, type[Request]] = {kind.verb: kind for kind in get_args(Request)}
_REPLIES: dict[bytes, type[Reply]] = {kind.verb: kind for kind in get_args(Reply)}


def encode_message(message: Request | Reply) -> list[bytes]:
    """Frames [verb, JSON]."""
    return [message.verb, jsontext.encode(message)]


def decode_request(frames: Sequence[bytes]) -> Request:
    """Request from frames [verb] or [verb, JSON]."""
    if len(frames) not in (1, 2):
        raise ProtocolError(f"a request has one or two frames, not {len(frames)}")
    request = _REQUESTS.get(frames[0])
    if request is None:
        raise ProtocolError(f"unknown verb {frames[0][:32]!r}")
    limit = HEADER_BYTES if request is Picks else REQUEST_BYTES
    fields = decode_json(frames[1], limit=limit) if frames[1:] and frames[1] else {}
    if rb"\ud" in frames[-1].lower() and _HALF_CHARACTER.search(json.dumps(fields, ensure_ascii=False)):
        # only file names may contain such bytes, and no request names a file
        raise ProtocolError("half of a surrogate pair")
    return converted(fields, request)


def decode_reply(frames: Sequence[bytes]) -> Event | Reply:
    """Reply, or the event of an EV or ROW."""
    if len(frames) != 2:
        raise ProtocolError(f"a reply has two frames, not {len(frames)}")
    if frames[0] in (EV, ROW):
        return parse_event(frames[1])
    reply = _REPLIES.get(frames[0])
    if reply is None:
        raise ProtocolError(f"unknown reply {frames[0][:32]!r}")
    return converted(decode_json(frames[1], limit=PAGE_BYTES), reply)
