"""The join algorithm: every durable event once and in order, whatever happens to the connection or the server.

Listen, wait for a heartbeat, send HELLO, replay from the position, then accept live events as long as their
numbers have no gap. A gap, a heartbeat that is ahead, or silence leads back to the journal. Kinds are selected
after all this, so that the selection can never look like a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.client.sockets import EventSocket, RequestSocket
from service.wire.heartbeat import Heartbeat
from service.wire.messages import Event, Position, ProtocolError, instance_topic
from service.wire.requests import End, Refusal, ReplayRequest
from streamer.errors import ServiceError
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import zmq

    from streamer.runtime.clock import Clock

TICK_S = 0.1
LIVENESS = 3
MAX_BACKOFF_S = 5.0


class TooFarBehind(ServiceError):
    """The events after the cursor are no longer kept: take a snapshot, and continue from its position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an instance can be reached, and how patient its subscriber is."""

    events: str
    journal: str
    instance: str
    name: str
    heartbeat_s: float = 1.0
    """Period of the server's heartbeat."""
    patience_s: float = 1.0
    """How long a heartbeat may be ahead before the journal is asked."""
    timeout_s: float = 2.0
    """Silence after which a request counts as lost."""


class Join:
    """One subscriber's way through the events. Iterate over ``run``; close it afterwards."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        source: Source,
        position: Position | None,
        on_heartbeat: Callable[[Heartbeat], None] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self._context, self._source, self._on_heartbeat = context, source, on_heartbeat
        self.position = position
        self.heard = self._clock.monotonic()
        """When the server was last heard."""
        self._listener = EventSocket(context, source.events, instance_topic(source.instance))
        self._link: RequestSocket | None = None
        self._alive = self._replaying = False
        self._astray: tuple[float, bool] | None = None
        """Since when the heartbeat reports a number other than ours, and whether it is a later one."""
        self._backoff_s, self._not_before = 0.0, 0.0

    def run(self) -> Iterator[Event | None]:
        """Events in order, for ever; None whenever the caller may want to look at something else."""
        while True:
            if self._alive and self._link is None and self._clock.monotonic() >= self._not_before:
                self._join()
            if self._replaying and self._link is not None and self._clock.monotonic() >= self._not_before:
                yield from self._replay(self._link)
            # between two pages only what has arrived already: waiting would cost a tick for each page
            in_a_hurry = self._replaying and self._clock.monotonic() >= self._not_before
            message = self._listener.receive(0.0 if in_a_hurry else TICK_S)
            yield self._live(message) if isinstance(message, Event) else None
            self._look_at(message)

    def close(self) -> None:
        """Close the sockets."""
        self._listener.close()
        self._drop_link()

    @property
    def is_level(self) -> bool:
        """Whether it has joined and has received everything that the journal contained then."""
        return self._link is not None and not self._replaying

    # ----------------------------------------------------------------------------------------------- live

    def _live(self, event: Event) -> Event | None:
        """Accept an event if it is the next one; if it is a later one, the journal has to help."""
        self.heard, self._alive = self._clock.monotonic(), True
        if self._link is None or self.position is None:
            return None
        if event.epoch != self.position.epoch:
            self._drop_link()
            return None
        if event.seq > self.position.seq + 1:
            self._replaying = True
        return self._next(event)

    def _next(self, event: Event) -> Event | None:
        if self.position is None or event.seq != self.position.seq + 1:
            return None
        self.position = event.position
        return event

    def _look_at(self, message: Event | Heartbeat | None) -> None:
        """Liveness, and what only the heartbeat can show: loss at the very end, or an older journal."""
        now = self._clock.monotonic()
        if isinstance(message, Heartbeat):
            self.heard, self._alive = now, True
            self._on_heartbeat(message)
            self._compare(message, now)
        if self._astray is not None and now - self._astray[0] > self._source.patience_s:
            (_, is_behind), self._astray = self._astray, None
            if is_behind:
                self._replaying = True
            else:
                # The journal was restored to an older state; HELLO will show it.
                self._drop_link()
        if self._alive and now - self.heard > LIVENESS * self._source.heartbeat_s:
            self._alive = False
            self._drop_link()

    def _compare(self, heartbeat: Heartbeat, now: float) -> None:
        """Compare what the server has published with what was delivered."""
        if self._link is None or self.position is None:
            return
        if heartbeat.epoch != self.position.epoch:
            self._drop_link()
        elif heartbeat.seq == self.position.seq or self._replaying:
            self._astray = None
        else:
            since = now if self._astray is None else self._astray[0]
            self._astray = since, heartbeat.seq > self.position.seq

    # ------------------------------------------------------------------------------------- asking the journal

    def _join(self) -> None:
        """Send HELLO and find out what is missing."""
        link = RequestSocket(self._context, self._source.journal, self._source.timeout_s)
        try:
            welcome = link.hello(self._source.name)
        except ProtocolError as error:
            link.close()
            if error.code == "BAD_VERSION":
                raise
            self._back_off()
            return
        except ServiceError:
            link.close()
            self._back_off()
            return
        self._link = link
        position = self.position
        if position is None or position.epoch != welcome.epoch:
            # A rebuilt journal sends everything again under new numbers, from its first event.
            position = Position(welcome.epoch, welcome.first_seq - 1)
        if position.seq > welcome.last_seq:
            raise ServiceError(
                "the cursor is ahead of the journal",
                where=self._source.journal,
                expected=f"at most {welcome.last_seq}",
                found=position.seq,
                hint="the journal was restored to an older state: start from a snapshot or a new cursor",
            )
        self.position, self._astray = position, None
        self._replaying = position.seq < welcome.last_seq

    def _replay(self, link: RequestSocket) -> Iterator[Event | None]:
        """Deliver one page. Whatever goes wrong, the position says where to continue."""
        if self.position is None:
            return
        link.send(ReplayRequest(from_seq=self.position.seq + 1, epoch=self.position.epoch))
        deadline = self._clock.monotonic() + self._source.timeout_s
        while self._clock.monotonic() < deadline:
            try:
                reply = link.receive(TICK_S)
            except ProtocolError:
                break
            if isinstance(reply, Event):
                yield self._next(reply)
                deadline = self._clock.monotonic() + self._source.timeout_s
            elif isinstance(reply, End):
                self._replaying = (reply.next or 0) <= reply.last_seq
                self._backoff_s = 0.0
                return
            elif isinstance(reply, Refusal):
                if not self._is_patient(reply):
                    break
                return
            else:
                yield None
        self._drop_link()
        self._back_off()

    def _is_patient(self, reply: Refusal) -> bool:
        """Whether the same link may be asked again a little later."""
        if reply.code == "TOO_OLD":
            raise TooFarBehind(
                "events that were not yet delivered are no longer kept",
                where=self._source.journal,
                found=reply.message,
                hint="take a snapshot and continue from there with a new cursor",
            )
        if reply.code in ("RATE", "BUSY"):
            self._not_before = self._clock.monotonic() + TICK_S
            return True
        return False

    def _back_off(self) -> None:
        self._backoff_s = min(MAX_BACKOFF_S, 2 * self._backoff_s or TICK_S)
        self._not_before = self._clock.monotonic() + self._backoff_s

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._replaying, self._astray = None, False, None
