"""What the daemon and its child processes say to each other: one JSON object per line over a pair of pipes.

A child dies with its parent (PR_SET_PDEATHSIG, and the end of its input), so that a killed daemon leaves nobody
behind who still writes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any

from msgspec import Struct

from service.config import Config
from service.wire.messages import DENOISER
from streamer import jsontext
from streamer.errors import Reason, ServiceError
from streamer.movie_record import MovieRecord, Times
from streamer.records import Movie
from streamer.runtime.fault_point import DAEMON

_PR_SET_PDEATHSIG = 1
_LINE_BYTES = 4 << 20
_KILL_WAIT_S = 5.0

# ------------------------------------------------------------------------------------------- daemon to worker


class Begin(Struct, tag=True, frozen=True, kw_only=True):
    """First line to any child."""

    config: Config
    session_directory: str = ""
    """Of the trainer: where versions are kept."""
    specimen: int = 1
    """Of the trainer: which of the session's specimens it learns from."""
    warm: str | None = None
    """Of the trainer: version of another specimen whose weights it goes on from where nothing serves."""


class Work(Struct, tag=True, frozen=True, kw_only=True):
    """One movie to process."""

    movie: Movie
    times: Times
    gain: str | None
    model: str | None
    """Directory of the version that serves."""
    fine_model: str | None = None
    """Directory of the network on top of fusion that serves."""
    output: str
    """The session's output directory."""
    groups: str | None
    """Where the frame-group sums go."""
    lesson: str | None = None
    """Where the fine grid's sums go that a network on top of fusion learns from."""
    notes: tuple[str, ...] = ()
    """Flags that the daemon adds to the record: what it knows from the movies before."""
    shed: tuple[str, ...] = ()
    """What to leave out: preview, denoise, super-resolution."""
    on_cpu: bool = False
    """Whether the GPU has failed on this movie again and again."""


class Finish(Struct, tag=True, frozen=True):
    """Finish the movie in hand, give the others back, and end."""


# ------------------------------------------------------------------------------------------- worker to daemon


class Up(Struct, tag=True, frozen=True, kw_only=True):
    """The child is ready."""

    device: str
    threads: int


class Progress(Struct, tag=True, frozen=True, kw_only=True):
    """A stage began: the child is alive."""

    movie_id: str
    revision: int
    stage: str


class Finished(Struct, tag=True, frozen=True, kw_only=True):
    """A movie is whole on disk."""

    record: MovieRecord


class Failed(Struct, tag=True, frozen=True, kw_only=True):
    """A movie could not be processed."""

    movie_id: str
    revision: int
    reason: Reason
    kind: str
    """failed, vanished, unreachable, not-ready, output, device or config: what the daemon makes of it."""
    stage: str
    stage_s: dict[str, float] = {}


class Returned(Struct, tag=True, frozen=True, kw_only=True):
    """A movie was given back untouched, because the worker ends."""

    movie_id: str
    revision: int


# ----------------------------------------------------------------------------------------- trainer, both ways


class Learn(Struct, tag=True, frozen=True, kw_only=True):
    """A finished movie's group sums, in the order of the session."""

    movie_id: str
    groups: str
    lesson: str | None = None
    """Sums of the fine grid, where a network on top of fusion learns."""


class Pause(Struct, tag=True, frozen=True, kw_only=True):
    """Movies are waiting (True), or not any more."""

    paused: bool


class Serving(Struct, tag=True, frozen=True, kw_only=True):
    """Another version serves, by the operator's will."""

    version: str | None


class Training(Struct, tag=True, frozen=True, kw_only=True):
    """Training began or ended."""

    active: bool


class Candidate(Struct, tag=True, frozen=True, kw_only=True):
    """What the gate said of a candidate; a promoted one is whole in the store."""

    result: str
    version: str
    """Of a promoted one; else the name it would have had."""
    reason: str
    sha256: str | None = None
    figures: dict[str, float | str | None] = {}
    network: str = DENOISER


ToChild = Begin | Work | Finish | Learn | Pause | Serving
FromChild = Up | Progress | Finished | Failed | Returned | Training | Candidate


# ---------------------------------------------------------------------------------------------- the child's end


class ParentChannel:
    """The child's end of the pipes."""

    def __init__(self) -> None:
        """Take standard input and output for the protocol; whatever prints goes to standard error."""
        self._input = os.fdopen(os.dup(0), "rb")
        self._output = os.dup(1)
        os.dup2(2, 1)

    def receive(self) -> ToChild | None:
        """Next message; None at the end."""
        line = self._input.readline()
        return jsontext.decode_any(line, ToChild) if line else None

    def send(self, message: FromChild) -> None:
        """Send a message; one write per line, so that threads do not mix."""
        data = jsontext.encode(message) + b"\n"
        while data:
            data = data[os.write(self._output, data) :]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        return  # not Linux: the end of the input has to do
    if os.getppid() == 1:
        sys.exit(0)


# --------------------------------------------------------------------------------------------- the daemon's end


class Child:
    """A child process and the daemon's end of its pipes."""

    def __init__(self, module: str, begin: Begin, *, threads: int, niceness: int = 0) -> None:
        """Start ``python -m module`` and send it the first line."""
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # waiting threads must not spin: cores are shared with the other processes
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            DAEMON: str(os.getpid()),
        }
        command = [sys.executable, "-m", module]
        if niceness:
            command = ["nice", "-n", str(niceness), *command]
        # in a session of its own: Ctrl-C and the end of a terminal are for the daemon to pass on
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0, start_new_session=True
        )
        self._buffer = b""
        os.set_blocking(self._out.fileno(), False)
        self.send(begin)

    @property
    def _in(self) -> IO[bytes]:
        return _pipe(self._process.stdin)

    @property
    def _out(self) -> IO[bytes]:
        return _pipe(self._process.stdout)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Descriptor that is readable when the child has spoken or ended."""
        return self._out.fileno()

    def send(self, message: ToChild) -> None:
        """Send a message; a child that is gone shows in ``alive``."""
        try:
            self._in.write(jsontext.encode(message) + b"\n")
        except (BrokenPipeError, ValueError):
            return

    def receive(self) -> list[FromChild]:
        """All messages that have arrived."""
        while True:
            try:
                data = self._out.read(1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > _LINE_BYTES:
            raise ServiceError("a child process sends lines without end", found=f"{len(self._buffer)} bytes")
        return [jsontext.decode_any(line, FromChild) for line in lines]

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        code = self._process.poll()
        if code is None:
            return "running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def stop(self, timeout_s: float) -> None:
        """Wait for the end; kill after the time given; close the pipes."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._in.close()
        self._out.close()

    def kill(self) -> None:
        """Kill it at once. One that hangs in a read or write of a dead volume ends only when the kernel lets it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_WAIT_S)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ServiceError("a child process has no pipe")
    return stream


def plain(value: Any) -> dict[str, float | str | None]:
    """Numbers and texts of a flat mapping, for figures that travel in events."""
    return {str(key): item if isinstance(item, (int, float, str)) else None for key, item in dict(value).items()}
