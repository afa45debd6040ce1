"""A subscriber's sockets, in terms of the protocol: one that listens and one that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from service.wire.heartbeat import Heartbeat, parse_heartbeat
from service.wire.messages import HEADER_BYTES, VERSION, Event, ProtocolError, parse_event, parse_topic
from service.wire.requests import PAGE_BYTES, Hello, Refusal, Welcome, decode_reply, encode_message
from streamer.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.wire.requests import Reply, Request

QUEUE_MESSAGES = 1000
_COMMON = {
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL: 100,
    zmq.RECONNECT_IVL_MAX: 2000,
    zmq.HEARTBEAT_IVL: 5000,
    zmq.HEARTBEAT_TIMEOUT: 15000,
}


class EventSocket:
    """SUB on the EVENTS socket; reconnects by itself."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        topic: bytes,
        queue: int = QUEUE_MESSAGES,
    ) -> None:
        options = {**_COMMON, zmq.RCVHWM: queue, zmq.MAXMSGSIZE: HEADER_BYTES}
        self._socket = _connected(context, zmq.SUB, endpoint, options)
        self._socket.subscribe(topic)

    def receive(self, timeout_s: float) -> Event | Heartbeat | None:
        """Next message; None: none in time, or one that is not of this protocol."""
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        frames = self._socket.recv_multipart()
        try:
            if len(frames) != 2:
                raise ProtocolError("two frames are needed")
            heartbeat = parse_topic(frames[0]).kind == "hb"
            return parse_heartbeat(frames[1]) if heartbeat else parse_event(frames[1])
        except ProtocolError:
            # If it was an event of ours, its number is now missing, and the journal has it.
            return None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class RequestSocket:
    """DEALER on the JOURNAL socket: one request at a time. After silence, close it and open another."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, timeout_s: float) -> None:
        self.endpoint, self.timeout_s = endpoint, timeout_s
        # A page is 257 messages at most, and has to fit: the server abandons a reply that does not.
        options = {**_COMMON, zmq.RCVHWM: QUEUE_MESSAGES, zmq.MAXMSGSIZE: PAGE_BYTES}
        self._socket = _connected(context, zmq.DEALER, endpoint, options)

    def send(self, request: Request) -> None:
        """Ask, without waiting."""
        self._socket.send_multipart(encode_message(request), zmq.DONTWAIT)

    def receive(self, timeout_s: float) -> Event | Reply | None:
        """Next message of the answer; None: none in time."""
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        return decode_reply(self._socket.recv_multipart())

    def hello(self, name: str) -> Welcome:
        """Send the first message; it must be answered before any other is sent."""
        for reply in self.ask(Hello(versions=[VERSION], client=name)):
            if isinstance(reply, Welcome):
                return reply
            raise ProtocolError(f"HELLO was answered with {type(reply).__name__}")
        raise ProtocolError("HELLO was not answered")

    def ask(self, request: Request) -> Iterator[Event | Reply]:
        """All messages of the answer, up to and including the one that is not an event.

        Raises
        ------
        ProtocolError : it was refused; ``code`` says why. ServiceError : no answer in time.
        """
        self.send(request)
        while True:
            # One message at a time: the timeout starts anew for each.
            reply = self.receive(self.timeout_s)
            if reply is None:
                raise ServiceError(
                    "no answer from the daemon",
                    where=self.endpoint,
                    expected=f"within {self.timeout_s:g} s",
                    hint="is it running? systemctl status streamer@INSTANCE",
                )
            if isinstance(reply, Refusal):
                raise ProtocolError(reply.message, code=reply.code)
            yield reply
            if not isinstance(reply, Event):
                return

    def close(self) -> None:
        """Close the socket; an answer under way is lost."""
        self._socket.close()


def _connected(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str, options: dict[zmq.SocketOption, int]
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    try:
        for option, value in options.items():
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise UsageError(
            "not an endpoint",
            where=endpoint,
            expected="tcp://HOST:PORT or ipc://PATH",
            found=error,
            hint="streamer check-config shows the addresses that a configuration uses",
        ) from error
    return socket
