"""What the daemon and its child processes say to each other: one JSON object per line over a pair of pipes.

A child dies with its parent (PR_SET_PDEATHSIG, and the end of its input), so that a killed daemon leaves no process
behind that still writes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO

from service.processes.messages import Begin, FromChild, ToChild
from streamer import jsontext
from streamer.errors import ServiceError
from streamer.runtime.fault_point import DAEMON

_PR_SET_PDEATHSIG = 1
_LINE_BYTES = 4 << 20
_KILL_WAIT_S = 5.0


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
        if code == -signal.SIGKILL:
            return "killed by SIGKILL, as the system does when memory is short"
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
