"""For subscribers: ``for event in Client(...).events(cursor)``. Needs only pyzmq and msgspec.

Delivery is at least once and in order: every event of the journal, once, except that a subscriber that is
killed (or leaves the loop) while it handles an event gets that one again, with the same ``event_id``. With a
``SqliteCursor`` the effect is exactly once. After the journal had to be rebuilt (a new epoch), everything is sent
again under new event ids, but with the same ``movie_id`` and ``revision``. Ignore kinds and fields you do not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

from service.client.cursor import Cursor, MemoryCursor
from service.client.join import TICK_S, Join, Source
from service.client.sockets import EventSocket, RequestSocket
from service.wire.heartbeat import Heartbeat
from service.wire.messages import HEADER_BYTES, Event, Position, ProtocolError, converted, heartbeat_topic
from service.wire.requests import Control, Done, End, Picks, SnapshotRequest, encode_message
from streamer.errors import ServiceError
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import TracebackType

    from service.wire.requests import ControlVerb
    from streamer.runtime.clock import Clock

_JOIN_S = 5.0


class Snapshot(NamedTuple):
    """The latest event of every movie, model version, alert and session."""

    events: list[Event]
    position: Position
    """Everything up to here is included: ``MemoryCursor(position)`` continues without a gap."""


class Client:
    """A subscriber of one instance. Every call opens its own sockets, so threads may share it.

    Parameters
    ----------
    events, journal : endpoints of the daemon; ``journal`` has to be the ipc one for ``control``.
    kinds : what is delivered; None: everything.
    name : how the client introduces itself.
    heartbeat_s : period of the daemon's heartbeat; three missed ones mean that it is gone.
    timeout_s : how long an answer may take.
    """

    def __init__(
        self,
        events: str = "tcp://127.0.0.1:5570",
        journal: str = "tcp://127.0.0.1:5571",
        *,
        instance: str = "default",
        kinds: Collection[str] | None = None,
        name: str = "python",
        heartbeat_s: float = 1.0,
        timeout_s: float = 2.0,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self._source = Source(
            events=events,
            journal=journal,
            instance=instance,
            name=name,
            heartbeat_s=heartbeat_s,
            patience_s=heartbeat_s,
            timeout_s=timeout_s,
        )
        self._kinds = kinds
        self._context = zmq.Context()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close everything; loops over ``events`` must have ended."""
        self._context.destroy(linger=0)

    def events(
        self,
        cursor: Cursor | None = None,
        *,
        stop: threading.Event | None = None,
        idle_timeout: float | None = None,
        lost_timeout: float | None = None,
        on_heartbeat: Callable[[Heartbeat], None] = lambda _: None,
    ) -> Iterator[Event]:
        """Events in order from the cursor on; does not end by itself.

        Parameters
        ----------
        cursor : where the position is kept; None: from the oldest event that is kept, every time.
        stop : ends the loop when set, in a fraction of a second (``timeout_s`` if the daemon does not answer).
        idle_timeout : ends the loop after this long without an event, s; the time to join, up to 5 s, is not counted.
        lost_timeout : raises after this long without any sign of the daemon, s; None: waits for ever.
        on_heartbeat : called with each heartbeat, between two events.

        Raises
        ------
        ServiceError : the daemon is lost, or the cursor is damaged.
        TooFarBehind : the events after the cursor are no longer kept.
        """
        cursor = cursor or MemoryCursor()
        join = Join(self._context, self._source, cursor.load(), on_heartbeat, self._clock)
        passed: Position | None = None
        began = active = self._clock.monotonic()
        try:
            for event in join.run():
                if event is not None and (self._kinds is None or event.kind in self._kinds):
                    begin = self._clock.monotonic()
                    yield event
                    # A subscriber that takes its time has not lost the daemon.
                    join.heard += self._clock.monotonic() - begin
                    # Only now: a subscriber that is killed while handling it gets it again.
                    _store(cursor, event.position)
                    passed, active = None, self._clock.monotonic()
                elif event is not None:
                    passed = event.position
                elif passed is not None:
                    _store(cursor, passed)
                    passed = None
                if not join.is_level and self._clock.monotonic() - began < _JOIN_S:
                    active = self._clock.monotonic()
                if _is_over(stop, idle_timeout, active, self._clock.monotonic()):
                    return
                if lost_timeout is not None and self._clock.monotonic() - join.heard > lost_timeout:
                    raise _lost(self._source, lost_timeout)
        finally:
            join.close()

    def heartbeat(self, timeout: float = 5.0) -> Heartbeat:
        """Next heartbeat; ``ServiceError`` if there is none in time."""
        listener = EventSocket(self._context, self._source.events, heartbeat_topic(self._source.instance))
        try:
            begin = self._clock.monotonic()
            while (left := begin + timeout - self._clock.monotonic()) > 0:
                message = listener.receive(left)
                if isinstance(message, Heartbeat):
                    return message
        finally:
            listener.close()
        raise _lost(self._source, timeout)

    def snapshot(self, kinds: Collection[str] | None = None, session: str | None = None) -> Snapshot:
        """Latest event of each movie, model version, alert and session; of two for the same, the later one counts."""
        rows: list[Event] = []
        position: Position | None = None
        page: int | None = 0
        link = self._linked()
        try:
            while page is not None:
                chosen = None if kinds is None else list(kinds)
                events, end = _page(link, SnapshotRequest(kinds=chosen, session=session, page=page), self._clock)
                rows += events
                # What happens while the pages arrive is either in a later one or above the first one's number.
                position = position or Position(end.epoch, end.last_seq)
                page = end.next_page
        finally:
            link.close()
        return Snapshot(rows, position or Position("", 0))

    def control(self, verb: ControlVerb, **arguments: str) -> dict[str, Any]:
        """Send an operator's command and return its result.

        Raises
        ------
        ProtocolError : refused; code FORBIDDEN if ``journal`` is not the ipc endpoint.
        """
        return self._done(converted({"verb": verb, "arguments": arguments}, Control))

    def hand_in(
        self,
        movie_id: str,
        revision: int,
        coordinates: Sequence[tuple[float, float]],
        *,
        picker: str,
        scores: Sequence[float] | None = None,
        diameter_angstrom: float | None = None,
    ) -> int:
        """Submit a picker's particles of a movie; returns the number of the event that announces them.

        Parameters
        ----------
        coordinates : x and y in px of the micrograph as written, from its first (bottom) row.
        picker : letters, digits, . _ -; a later set by the same picker replaces this one.

        Raises
        ------
        ProtocolError : refused; code FORBIDDEN if ``journal`` is not the ipc endpoint, TOO_LARGE above about
            3000 particles.
        """
        fields = {
            "movie_id": movie_id,
            "revision": revision,
            "picker": picker,
            # more digits than any picker can resolve, and the size of a request is limited
            "coordinates": [[round(float(x), 3), round(float(y), 3)] for x, y in coordinates],
            "scores": None if scores is None else [float(f"{score:.6g}") for score in scores],
            "diameter_angstrom": diameter_angstrom,
        }
        picks = converted(fields, Picks)
        size = len(encode_message(picks)[1])
        if size > HEADER_BYTES:
            # the daemon would close the connection without an answer
            what = f"{len(coordinates)} particles take {size} bytes, allowed are {HEADER_BYTES}"
            raise ProtocolError(what, code="TOO_LARGE")
        return int(self._done(picks)["seq"])

    def _done(self, request: Control | Picks) -> dict[str, Any]:
        link = self._linked()
        try:
            for reply in link.ask(request):
                if isinstance(reply, Done):
                    return reply.result
        finally:
            link.close()
        raise ServiceError(
            "the command was not answered",
            where=self._source.journal,
            hint="is the daemon still running? streamer monitor shows it; then try again",
        )

    def _linked(self) -> RequestSocket:
        link = RequestSocket(self._context, self._source.journal, self._source.timeout_s)
        try:
            link.hello(self._source.name)
        except BaseException:
            link.close()
            raise
        return link


def _store(cursor: Cursor, position: Position) -> None:
    if cursor.automatic:
        cursor.store(position)


def _is_over(stop: threading.Event | None, idle_timeout: float | None, active: float, now: float) -> bool:
    if stop is not None and stop.is_set():
        return True
    return idle_timeout is not None and now - active > idle_timeout


def _page(link: RequestSocket, request: SnapshotRequest, clock: Clock) -> tuple[list[Event], End]:
    """One page; requested again later if the server limits the rate."""
    while True:
        rows: list[Event] = []
        try:
            for reply in link.ask(request):
                if isinstance(reply, Event):
                    rows.append(reply)
                elif isinstance(reply, End):
                    return rows, reply
        except ProtocolError as error:
            if error.code != "RATE":
                raise
            clock.sleep(TICK_S)
        else:
            raise ProtocolError("SNAPSHOT was not answered with END")


def _lost(source: Source, timeout: float) -> ServiceError:
    return ServiceError(
        "no heartbeat from the daemon",
        where=source.events,
        expected=f"one from {source.instance} within {timeout:g} s",
        hint="is it running? systemctl status streamer@INSTANCE",
    )
