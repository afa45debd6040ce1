"""The daemon's public sockets, on loopback and in the runtime directory: EVENTS and PREVIEW (XPUB), JOURNAL (ROUTER).

Everything published comes from the journal, and nothing here ever blocks: a subscriber that cannot keep up
loses messages, notices it by their numbers, and asks the journal. Nothing that strangers send can raise.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import msgspec
import zmq

from service.layout import EVENTS_FILE, JOURNAL_FILE, PREVIEW_FILE, SOCKET_PATH_BYTES
from service.publishing.previews import preview_of
from service.publishing.replies import Replies
from service.wire.heartbeat import Heartbeat
from service.wire.loopback import check_loopback
from service.wire.messages import HEADER_BYTES, heartbeat_topic, topic
from streamer import jsontext
from streamer.errors import ConfigError, ServiceError
from streamer.runtime.clock import SYSTEM, utc_text
from streamer.runtime.fault_point import fault_point

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from service.journal.event_log import EventLog
    from service.publishing.replies import ControlCallback, PicksCallback
    from streamer.movie_record import MovieRecord
    from streamer.runtime.clock import Clock

EVENTS_ENDPOINT, JOURNAL_ENDPOINT = "tcp://127.0.0.1:5570", "tcp://127.0.0.1:5571"
PREVIEW_ENDPOINT = "tcp://127.0.0.1:5572"

_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):([0-9]{1,5}|\*)")
# Time for strangers in one turn of the daemon's loop: however much they ask, the loop continues.
_TURN_S = 0.05

_ESSENTIAL = ("instance", "epoch", "seq", "t_utc", "state", "pending", "oldest_pending_s", "model_version")
_COMMON = {
    zmq.LINGER: 1000,
    zmq.HANDSHAKE_IVL: 5000,
    zmq.HEARTBEAT_IVL: 5000,
    zmq.HEARTBEAT_TIMEOUT: 15000,
    zmq.HEARTBEAT_TTL: 15000,
}
# VERBOSER passes every subscription and its end upwards, so that subscribers can be counted.
_EVENTS_OPTIONS = {**_COMMON, zmq.SNDHWM: 1000, zmq.MAXMSGSIZE: 4096, zmq.XPUB_VERBOSER: 1}
# A subscriber that cannot keep up loses pictures: at most four wait for each.
_PREVIEW_OPTIONS = {**_EVENTS_OPTIONS, zmq.SNDHWM: 4}
# Without MANDATORY a reply that does not fit is dropped silently.
_JOURNAL_OPTIONS = {
    **_COMMON, zmq.SNDHWM: 256, zmq.RCVHWM: 256, zmq.MAXMSGSIZE: HEADER_BYTES, zmq.ROUTER_MANDATORY: 1
}  # fmt: skip


class Publisher:
    """Sockets of an instance; register ``sockets`` for POLLIN and call ``handle`` with those that have it.

    Parameters
    ----------
    log : where events come from; those it already contains are sent only on request.
    events, journal, preview : ``tcp://`` endpoints on loopback; port 0 takes any free one.
    runtime_directory : where the ipc sockets are created, for user and group; None: no such sockets, and no CONTROL.
    control : carries out an operator's command; may be set later as ``replies.control``.
    published : called with the kind of every event sent.
    answered : called with verb and result of every request.

    Raises
    ------
    ConfigError : an address that is not loopback. ServiceError : a port that is taken.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        events: str = EVENTS_ENDPOINT,
        journal: str = JOURNAL_ENDPOINT,
        preview: str = PREVIEW_ENDPOINT,
        runtime_directory: Path | None = None,
        control: ControlCallback | None = None,
        picks: PicksCallback | None = None,
        published: Callable[[str], None] = lambda _kind: None,
        answered: Callable[[str, str], None] = lambda _verb, _result: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._log, self._published, self._clock = log, published, clock
        self._cursor = log.last_seq
        self.replies = Replies(log, control=control, picks=picks, answered=answered, clock=clock)
        self.subscribers = self.watchers = 0
        """Number of subscribers to the heartbeat, and to previews."""
        self.events_local = self.journal_local = ""
        self._files: list[Path] = []
        self._context = zmq.Context()
        try:
            self._events = self._socket(zmq.XPUB, _EVENTS_OPTIONS)
            self._journal = self._socket(zmq.ROUTER, _JOURNAL_OPTIONS)
            self._local = self._socket(zmq.ROUTER, _JOURNAL_OPTIONS)
            self._preview = self._socket(zmq.XPUB, _PREVIEW_OPTIONS)
            self.preview_endpoint = _bind_tcp(self._preview, preview)
            self.events_endpoint = _bind_tcp(self._events, events)
            self.journal_endpoint = _bind_tcp(self._journal, journal)
            if runtime_directory is not None:
                self._files = [runtime_directory / name for name in (EVENTS_FILE, JOURNAL_FILE, PREVIEW_FILE)]
                self.events_local = _bind_ipc(self._events, self._files[0])
                self.journal_local = _bind_ipc(self._local, self._files[1])
                _bind_ipc(self._preview, self._files[2])
        except BaseException:
            self._context.destroy(linger=0)
            raise

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """Sockets that the daemon's loop has to watch."""
        return self._events, self._journal, self._local, self._preview

    def handle(self, socket: zmq.Socket[bytes]) -> None:
        """Handle what has arrived on one of the sockets; returns soon, however much there is."""
        deadline = self._clock.monotonic() + _TURN_S
        while self._clock.monotonic() < deadline:
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if socket is self._events:
                self._count(frames)
            elif socket is self._preview:
                if frames[0][:1] in (b"\0", b"\1"):
                    self.watchers = max(0, self.watchers + (1 if frames[0][:1] == b"\1" else -1))
            else:
                self._reply(socket, frames)

    def publish_new(self) -> int:
        """Send the events of the journal that were not sent yet; returns how many."""
        sent = 0
        while rows := self._log.page(self._cursor + 1):
            for row in rows:
                fault_point("unpublished", row.raw)
                name = topic(self._log.instance, row.kind, row.session)
                self._events.send_multipart([name, row.raw], zmq.DONTWAIT)
                self._cursor = row.seq
                self._published(row.kind)
            sent += len(rows)
        return sent

    def show(self, record: MovieRecord, session_directory: Path) -> None:
        """Send a movie's picture to the subscribers that are ready for it."""
        if self.watchers:
            frames = preview_of(record, session_directory, self._log.instance, self._clock.wall())
            if frames is not None:
                self._preview.send_multipart(frames, zmq.DONTWAIT)

    def heartbeat(self, heartbeat: Heartbeat) -> Heartbeat:
        """Send new events, then the heartbeat with their numbers filled in. Returns what was sent."""
        self.publish_new()
        whole = msgspec.structs.replace(
            heartbeat,
            instance=self._log.instance,
            epoch=self._log.epoch,
            seq=self._cursor,
            kseq=self._log.kseqs(),
            t_utc=utc_text(self._clock.wall()),
        )
        raw = jsontext.shown(whole)
        if len(raw) > HEADER_BYTES:
            # Subscribers disconnect if a message is too long, and without this one they would think us dead.
            whole = Heartbeat(**{name: getattr(whole, name) for name in _ESSENTIAL})
            raw = jsontext.shown(whole)
        self._events.send_multipart([heartbeat_topic(self._log.instance), raw], zmq.DONTWAIT)
        return whole

    def close(self) -> None:
        """Close the sockets; queued messages have one second to leave."""
        self._context.destroy()
        for path in self._files:
            path.unlink(missing_ok=True)

    def _socket(self, kind: int, options: Mapping[zmq.SocketOption, int]) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        for option, value in options.items():
            socket.setsockopt(option, value)
        return socket

    def _count(self, frames: list[bytes]) -> None:
        """Count the subscribers to the heartbeat: our own client subscribes to it once."""
        topic_wanted = frames[0][1:]
        if frames[0][:1] in (b"\0", b"\1") and heartbeat_topic(self._log.instance).startswith(topic_wanted):
            self.subscribers = max(0, self.subscribers + (1 if frames[0][:1] == b"\1" else -1))

    def _reply(self, socket: zmq.Socket[bytes], frames: list[bytes]) -> None:
        peer, *request = frames
        for message in self.replies.answer(peer, request, local=socket is self._local):
            try:
                socket.send_multipart([peer, *message], zmq.DONTWAIT)
            except zmq.ZMQError as error:
                if error.errno in (errno.EAGAIN, errno.EHOSTUNREACH):
                    # The client does not read, or is gone: it will ask again from its own cursor.
                    return
                raise


def _bind_tcp(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind and return the endpoint with its true port."""
    found = _TCP.fullmatch(endpoint)
    if found is None:
        raise ConfigError(
            "not an endpoint", where=endpoint, expected="tcp://127.0.0.1:PORT", hint="correct events.bind"
        )
    host, port = found.groups()
    address = check_loopback(host, endpoint)
    socket.setsockopt(zmq.IPV6, int(":" in address))
    try:
        socket.bind(f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}")
    except zmq.ZMQError as error:
        hint = "another instance or program uses this port; choose another one, or 0 for any"
        raise ServiceError("the socket cannot be opened", where=endpoint, found=error, hint=hint) from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _bind_ipc(socket: zmq.Socket[bytes], path: Path) -> str:
    """Bind a socket file that only user and group can open, and return its endpoint."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ConfigError(
            "the socket's path is too long",
            where=path,
            expected=f"at most {SOCKET_PATH_BYTES} bytes",
            hint="set instance.runtime to a directory with a shorter name",
        )
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            "the runtime directory cannot be created",
            where=path,
            found=error,
            hint="set instance.runtime to a directory that the daemon's user can write",
        ) from error
    # It must not be open to others even for a moment between bind and chmod.
    before = os.umask(0o117)
    try:
        socket.bind(f"ipc://{path}")
    except zmq.ZMQError as error:
        raise ServiceError(
            "the socket cannot be opened",
            where=path,
            found=error,
            hint="set instance.runtime to a directory that the daemon's user can write, on a local disk",
        ) from error
    finally:
        os.umask(before)
    return f"ipc://{path}"
