"""The thread that watches the directory and hands over what it finds.

A thread of its own, because listing a directory on a slow mount must not keep the daemon from its sockets.
"""

from __future__ import annotations

import os
import queue
import threading
from functools import partial
from typing import TYPE_CHECKING

from streamer.errors import ServiceError
from streamer.metadata.search import SidecarSearch
from streamer.readers.movie import read_header
from streamer.runtime.clock import SYSTEM
from streamer.watch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from service.config import Config
    from streamer.records import FileIdentity
    from streamer.runtime.clock import Clock
    from streamer.watch.arrival import Arrival
    from streamer.watch.skips import Skips

_CLOSE_S = 5.0


def watcher_of(config: Config, known: Mapping[str, FileIdentity], clock: Clock = SYSTEM) -> Watcher:
    """A watcher of the configured root, which reads headers and sidecars as configured."""
    return Watcher(
        config.watch,
        session_name=config.session.name or "",
        known=known,
        clock=clock,
        header_check=partial(read_header, eer=config.eer),
        sidecar_read=SidecarSearch(config.watch.metadata_root),
    )


class WatchThread:
    """A watcher at work; ``fileno`` becomes readable when it has found something."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._found: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._awake, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Descriptor to wait for."""
        return self._awake

    @property
    def root_missing(self) -> bool:
        """Whether the watched root was missing at the last look."""
        return self._watcher.root_missing

    @property
    def overflows(self) -> int:
        """How often the kernel has lost events; each time everything was scanned again."""
        return self._watcher.overflows

    @property
    def skips(self) -> Skips:
        """What the last full scan left out."""
        return self._watcher.skips

    @property
    def settling(self) -> int:
        """How many files are present but not yet known to be complete."""
        return len(self._watcher.waiting())

    def arrivals(self) -> Iterator[Arrival]:
        """Yield what was found since the last call; raises ServiceError when the thread has ended."""
        try:
            os.read(self._awake, 4096)
        except BlockingIOError:
            pass
        while not self._found.empty():
            yield self._found.get()
        if not self._thread.is_alive():
            raise ServiceError(
                "the watching thread has ended",
                where=str(self._watcher.root),
                hint="the daemon is started again; if it ends like this again, report what it wrote above",
            )

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            os.close(self._awake)
            os.close(self._wake)

    def _watch(self) -> None:
        for arrival in self._watcher.arrivals(self._stop):
            self._found.put(arrival)
            try:
                os.write(self._wake, b"\0")
            except BlockingIOError:
                continue  # it is awake already
