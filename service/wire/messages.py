r"""What is published and kept: topics and events of protocol v1. Requests are in ``requests``.

Input: our own records, and bytes from strangers. Output: bytes within the limits below, and checked structs.
Anything that breaks the protocol raises ``ProtocolError`` and nothing else. JSON never contains NaN or infinity
(null stands for them); a file name that is not UTF-8 is sent with its invalid bytes as ``\udc80`` to ``\udcff``,
as Python's json writes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct

from streamer import jsontext
from streamer.errors import ServiceError
from streamer.movie_record import DENOISER, MovieRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
EVENT_SCHEMA = f"streamer.event/{VERSION}"
MINOR = 0

TOPIC_BYTES = 128
HEADER_BYTES = 64 * 1024

CODES = (
    "BAD_VERSION", "BAD_REQUEST", "EPOCH_CHANGED", "TOO_OLD", "BUSY", "RATE", "TOO_LARGE", "FORBIDDEN"
)  # fmt: skip

T = TypeVar("T")

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_TOPIC = re.compile(rb"v1/([A-Za-z0-9._-]{1,32})/([a-z]{1,16})/(?:([A-Za-z0-9._-]{1,64})/)?")
_SESSION_IN_TOPIC = 64
_ENVELOPE = ("schema", "minor", "instance", "epoch", "seq", "kseq", "kind", "event_id", "session", "t_utc")
# What is left out of an event that is too long, in this order; the sidecar file always has the whole record.
_EXPENDABLE: tuple[tuple[str, object], ...] = (
    ("metrics.shifts_yx_px", []), ("metrics.frc", []), ("model.weight", []), ("figures", {}), ("flags", []),
    ("times.stage_s", {}), ("outputs", []), ("metrics", None), ("source", None), ("reason", None),
    ("message", ""), ("model", None), ("software", None),
)  # fmt: skip


class ProtocolError(ServiceError):
    """A message that breaks protocol v1, or a request that was refused; ``code`` is one of ``CODES``."""

    def __init__(self, what: str, *, code: str = "BAD_REQUEST", hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.code = code


# ---------------------------------------------------------------------------------------------------- JSON


def decode_json(raw: bytes, *, limit: int = HEADER_BYTES) -> dict[str, Any]:
    """JSON object of at most ``limit`` bytes; anything else raises ``ProtocolError``."""
    if len(raw) > limit:
        raise ProtocolError(f"{len(raw)} bytes where {limit} are allowed", code="TOO_LARGE")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_not_finite, parse_float=_finite_float)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("a JSON object is needed")
    return value


def converted(fields: Mapping[str, Any], kind: type[T]) -> T:
    """One of our structs from a decoded object; unknown fields are ignored."""
    try:
        return msgspec.convert(fields, kind)
    except ValueError as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from error


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_finite(text)


# --------------------------------------------------------------------------------------------------- topics


class Topic(NamedTuple):
    """Contents of frame 0."""

    instance: str
    kind: str
    session: str


def check_instance(instance: str) -> str:
    """Return the name if it can be part of a topic; else raise ``ValueError``."""
    if not _INSTANCE.fullmatch(instance):
        raise ValueError(f"instance name {instance!r} is not a letter or digit, then up to 31 of these or . _ -")
    return instance


def instance_topic(instance: str) -> bytes:
    """Prefix of everything that an instance publishes; what a subscriber subscribes to."""
    return f"v{VERSION}/{check_instance(instance)}/".encode("ascii")


def topic(instance: str, kind: str, session: str) -> bytes:
    """Topic of an event. A long or unusual session name is changed here; the JSON has the true one."""
    part = re.sub(r"[^A-Za-z0-9._-]", "_", session)[:_SESSION_IN_TOPIC] or "-"
    return instance_topic(instance) + f"{kind}/{part}/".encode("ascii")


def heartbeat_topic(instance: str) -> bytes:
    """Topic of the heartbeat."""
    return instance_topic(instance) + b"hb/"


def parse_topic(raw: bytes) -> Topic:
    """Parts of a topic; the session is empty for the heartbeat."""
    found = _TOPIC.fullmatch(raw) if len(raw) <= TOPIC_BYTES else None
    if found is None:
        raise ProtocolError(f"not a topic of version {VERSION}: {raw[:TOPIC_BYTES]!r}")
    instance, kind, session = (part.decode("ascii") if part else "" for part in found.groups())
    return Topic(instance, kind, session)


# --------------------------------------------------------------------------------------------------- events


NO_VERSION = "none"
"""Stands for the version when no network is in use any more."""


SERVES_AFTER = ("promoted", "rolled-back", "fell-back", "returned")
"""Results after which the named version is in use."""


class ModelChange(Struct, frozen=True, kw_only=True):
    """Body of kind ``model``: what became of a version of the session model."""

    version: str
    result: str
    """promoted, rejected, rolled-back, fell-back or returned (after a change of specimen), failed, ..."""
    reason: str = ""
    sha256: str | None = None
    figures: dict[str, float | str | None] = {}
    """What the gate measured."""
    network: str = DENOISER
    """What it is a version of: the denoiser, the network on top of fusion (super-resolution), or cryo-zssr."""


class Alert(Struct, frozen=True, kw_only=True):
    """Body of kind ``alert``, and an entry of the heartbeat's ``alarms``."""

    name: str
    severity: str
    """info, warning, critical."""
    state: str
    """raised, cleared, or happened: something that neither begins nor ends an alarm."""
    message: str = ""


class SessionChange(Struct, frozen=True, kw_only=True):
    """Body of kind ``session``."""

    state: str
    """started, stopped, ..."""
    message: str = ""


class PicksMade(Struct, frozen=True, kw_only=True):
    """Body of kind ``picks``: a picker has submitted its particles of a movie."""

    movie_id: str
    revision: int
    picker: str
    n: int
    """How many particles."""
    path: str
    """STAR file of coordinates, relative to the session's directory."""
    sha256: str
    diameter_angstrom: float | None = None
    """Of the particle, if the picker gives it."""


Body = MovieRecord | ModelChange | Alert | SessionChange | PicksMade
_KINDS: dict[type, str] = {
    MovieRecord: "movie", ModelChange: "model", Alert: "alert", SessionChange: "session", PicksMade: "picks"
}  # fmt: skip
KINDS = tuple(_KINDS.values())


class Position(NamedTuple):
    """Position of an event, and of a subscriber that has handled it."""

    epoch: str
    seq: int


class Event(Struct, frozen=True, kw_only=True):
    """A durable event: the envelope as fields, the rest as ``body``, and the exact bytes that were published.

    Fields that a newer server adds are in ``body``; a kind that is unknown here arrives like any other.
    """

    schema: str
    minor: int
    instance: str
    epoch: str
    """UUID of the journal; a rebuilt journal has a new one."""
    seq: Annotated[int, Meta(ge=1)]
    """Dense over all events of the epoch."""
    kseq: Annotated[int, Meta(ge=1)]
    """Dense within kind and session."""
    kind: str
    event_id: str
    session: str
    t_utc: str
    body: dict[str, Any]
    raw: bytes

    @property
    def position(self) -> Position:
        """What a cursor stores."""
        return Position(self.epoch, self.seq)


def kind_of(body: Body) -> str:
    """Kind under which a body is published."""
    return _KINDS[type(body)]


def subject_of(body: Body) -> str:
    """Name of what the event is about: a snapshot contains the latest event of every subject."""
    match body:
        case MovieRecord():
            return body.movie_id
        case ModelChange():
            # each kind of network counts its versions from one
            return body.version if body.network == DENOISER else f"{body.network} {body.version}"
        case Alert():
            return body.name
        case PicksMade():
            return f"{body.movie_id} {body.picker}"
        case SessionChange():
            return ""


def event_id_of(epoch: str, seq: int) -> str:
    """Permanent name of an event: the same bytes, the same name, however often it is delivered."""
    return hashlib.sha256(f"{epoch}/{seq}".encode()).hexdigest()[:32]


def make_event(body: Body, *, instance: str, epoch: str, seq: int, kseq: int, session: str, t_utc: str) -> Event:
    """Event from its body, with its bytes.

    An event over the limit loses its longest figures first and names them in ``truncated``.
    """
    whole: dict[str, Any] = {
        "schema": EVENT_SCHEMA,
        "minor": MINOR,
        "instance": instance,
        "epoch": epoch,
        "seq": seq,
        "kseq": kseq,
        "kind": kind_of(body),
        "event_id": event_id_of(epoch, seq),
        "session": session,
        "t_utc": t_utc,
    }
    fields: dict[str, Any] = jsontext.rounded(msgspec.to_builtins(body))
    whole |= {name: value for name, value in fields.items() if name not in whole}
    return parse_event(_fitted(whole))


def parse_event(raw: bytes) -> Event:
    """Event from its bytes, as published or as replayed."""
    fields = decode_json(raw)
    if fields.get("schema") != EVENT_SCHEMA:
        raise ProtocolError(f"schema {str(fields.get('schema'))[:64]!r} is not {EVENT_SCHEMA}", code="BAD_VERSION")
    envelope = {name: fields.pop(name) for name in _ENVELOPE if name in fields}
    try:
        return msgspec.convert({**envelope, "body": fields, "raw": raw}, Event)
    except ValueError as error:
        raise ProtocolError(f"an event without a valid envelope: {error}") from error


def movie_record(event: Event) -> MovieRecord:
    """Record that a movie event carries; a field that was truncated is empty in it."""
    try:
        return msgspec.convert({**event.body, "session": event.session}, MovieRecord)
    except ValueError as error:
        raise ProtocolError(f"not the record of a movie: {error}") from error


def _fitted(whole: dict[str, Any]) -> bytes:
    """JSON within the limit; parts are emptied one by one until it fits."""
    raw = jsontext.encode(whole)
    dropped: list[str] = []
    for path, empty in _EXPENDABLE:
        if len(raw) <= HEADER_BYTES:
            break
        parent, _, name = path.rpartition(".")
        holder = (whole.get(parent) if parent else whole) or {}
        if holder.get(name):
            # a movie's reason is a record, a model's is text
            holder[name] = "" if isinstance(holder[name], str) else empty
            dropped.append(path)
            raw = jsontext.encode({**whole, "truncated": dropped})
    if len(raw) > HEADER_BYTES:
        raise ValueError(f"an event of {len(raw)} bytes cannot be cut down to {HEADER_BYTES}")
    return raw
