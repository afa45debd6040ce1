"""Answers to the requests of protocol v1, from the journal; bytes in, bytes out, no sockets.

Anything that a stranger sends gets a valid answer or an ERROR and cannot raise; only an error of the journal does.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.wire.messages import HEADER_BYTES, VERSION, ProtocolError
from service.wire.requests import (
    EV,
    PAGE_BYTES,
    PAGE_EVENTS,
    REQUEST_BYTES,
    ROW,
    Control,
    Done,
    End,
    Hello,
    Picks,
    Ping,
    Pong,
    Refusal,
    ReplayRequest,
    SnapshotRequest,
    Welcome,
    decode_request,
    encode_message,
)
from streamer.errors import OutputError, ServiceError, StreamerError
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from service.journal.event_log import EventLog
    from service.wire.requests import Request
    from streamer.runtime.clock import Clock

    Frames = list[bytes]
    ControlCallback = Callable[[str, Mapping[str, str]], dict[str, Any]]
    PicksCallback = Callable[[Picks], dict[str, Any]]

REQUESTS_PER_S = 50
MAX_CLIENTS = 1024
# Half of the send queue of 256 messages: credit for what a client has read is returned in halves, so that one
# page after another always fits, and none is abandoned half-way. END says where to continue.
ROWS_PER_PAGE = 128
LIMITS = {
    "requests_per_s": REQUESTS_PER_S,
    "page_events": PAGE_EVENTS,
    "page_bytes": PAGE_BYTES,
    "request_bytes": REQUEST_BYTES,
    "header_bytes": HEADER_BYTES,
}


@dataclass(slots=True)
class _Client:
    """What is remembered about a peer."""

    tokens: float
    refilled: float
    greeted: bool = False


class Replies:
    """Who may ask what, how often, and what the answer is.

    Parameters
    ----------
    control : carries out an operator's command and returns its result; None: not yet, or no longer.
    picks : accepts a picker's particles; None: not yet, or no longer.
    answered : called with the verb and ``ok`` or the error code of every request, for counting.
    clock : gives monotonic seconds.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        control: ControlCallback | None = None,
        picks: PicksCallback | None = None,
        answered: Callable[[str, str], None] = lambda _verb, _result: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._log, self._answered, self._clock = log, answered, clock
        self._clients: OrderedDict[bytes, _Client] = OrderedDict()
        self.control, self.picks = control, picks

    def answer(self, peer: bytes, frames: Sequence[bytes], *, local: bool) -> list[Frames]:
        """All messages that answer one request.

        Parameters
        ----------
        peer : name of the client on its socket.
        frames : [verb, JSON], unchecked.
        local : it came over the ipc socket, whose file only the operators' group can open.
        """
        verb = "unknown"
        try:
            client = self._admit(peer, local=local)
            request = decode_request(frames)
            verb = request.verb.decode("ascii")
            replies = self._carry_out(client, request, local=local)
        except ProtocolError as error:
            self._answered(verb, error.code)
            return [encode_message(Refusal(code=error.code, message=error.message()))]
        self._answered(verb, "ok")
        return replies

    def _admit(self, peer: bytes, *, local: bool) -> _Client:
        """Find the peer's entry and take one token of its bucket."""
        now = self._clock.monotonic()
        key = (b"l" if local else b"t") + peer
        client = self._clients.pop(key, None) or _Client(tokens=REQUESTS_PER_S, refilled=now)
        self._clients[key] = client
        if len(self._clients) > MAX_CLIENTS:
            # The client that was silent longest is forgotten and has to send HELLO again.
            self._clients.popitem(last=False)
        client.tokens = min(REQUESTS_PER_S, client.tokens + (now - client.refilled) * REQUESTS_PER_S)
        client.refilled = now
        if client.tokens < 1.0:
            raise ProtocolError(f"more than {REQUESTS_PER_S} requests per second", code="RATE")
        client.tokens -= 1.0
        return client

    def _carry_out(self, client: _Client, request: Request, *, local: bool) -> list[Frames]:
        if not client.greeted and not isinstance(request, (Hello, Ping)):
            raise ProtocolError("the first message must be HELLO")
        match request:
            case Hello():
                return [encode_message(self._welcome(client, request))]
            case Ping():
                return [encode_message(Pong(seq=self._log.last_seq))]
            case SnapshotRequest():
                return self._snapshot(request)
            case ReplayRequest():
                return self._replay(request)
            case Control() | Picks():
                return [encode_message(self._command(request, local=local))]

    def _welcome(self, client: _Client, request: Hello) -> Welcome:
        if VERSION not in request.versions:
            raise ProtocolError(f"this daemon speaks version {VERSION}", code="BAD_VERSION")
        self._check_epoch(request.epoch)
        client.greeted = True
        return Welcome(
            version=VERSION,
            epoch=self._log.epoch,
            first_seq=self._log.first_seq,
            last_seq=self._log.last_seq,
            limits=LIMITS,
        )

    def _snapshot(self, request: SnapshotRequest) -> list[Frames]:
        last_seq = self._log.last_seq
        rows = self._log.snapshot(request.kinds, request.session, request.page, ROWS_PER_PAGE)
        more = rows and self._log.snapshot(request.kinds, request.session, rows[-1].seq, 1)
        end = End(
            epoch=self._log.epoch,
            last_seq=last_seq,
            seq=last_seq,
            next_page=rows[-1].seq if more else None,
        )
        return [*([ROW, row.raw] for row in rows), encode_message(end)]

    def _replay(self, request: ReplayRequest) -> list[Frames]:
        self._check_epoch(request.epoch)
        first, last = self._log.first_seq, self._log.last_seq
        if request.max > PAGE_EVENTS:
            raise ProtocolError(f"a page has at most {PAGE_EVENTS} events", code="TOO_LARGE")
        if request.from_seq > last + 1:
            raise ProtocolError(f"event {request.from_seq} does not exist, {last} is the newest")
        if request.from_seq < first:
            raise ProtocolError(f"events before {first} are no longer kept", code="TOO_OLD")
        limit = min(request.max, ROWS_PER_PAGE)
        rows = self._log.page(request.from_seq, limit, PAGE_BYTES, request.kinds)
        # A page that is not full has covered everything, whatever the selection of kinds left out.
        full = len(rows) == limit or sum(len(row.raw) for row in rows) > PAGE_BYTES - HEADER_BYTES
        end = End(epoch=self._log.epoch, last_seq=last, next=rows[-1].seq + 1 if full else last + 1)
        return [*([EV, row.raw] for row in rows), encode_message(end)]

    def _command(self, request: Control | Picks, *, local: bool) -> Done:
        if not local:
            raise ProtocolError("commands are accepted on the local ipc socket only", code="FORBIDDEN")
        try:
            if isinstance(request, Control) and self.control is not None:
                return Done(result=self.control(request.action, request.arguments))
            if isinstance(request, Picks) and self.picks is not None:
                return Done(result=self.picks(request))
        except ServiceError:
            raise
        except OutputError as error:
            raise ProtocolError(error.message(), code="BUSY") from error
        except StreamerError as error:
            raise ProtocolError(error.message()) from error
        raise ProtocolError("the daemon is starting or stopping", code="BUSY")

    def _check_epoch(self, epoch: str | None) -> None:
        if epoch is not None and epoch != self._log.epoch:
            raise ProtocolError(f"the journal was rebuilt: its epoch is {self._log.epoch}", code="EPOCH_CHANGED")
