"""From a directory that a detector writes into, to complete movies, each once.

``Settling`` judges, ``scan`` looks; this is the loop around them. Kernel events only say where to look: they are lost
on overflow and never come from another computer, so full scans back them up, at the start, after an overflow, for new
directories, and at intervals.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from streamer.errors import StreamerError
from streamer.metadata import sidecars
from streamer.readers import movie as movie_reader
from streamer.readers.files import below
from streamer.runtime.clock import SYSTEM
from streamer.watch.scan import Listing, is_movie_path, look_again
from streamer.watch.scan import scan as scan
from streamer.watch.settling import Settling as Settling
from streamer.watch.skips import Skips

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

    from streamer.records import FileIdentity
    from streamer.runtime.clock import Clock
    from streamer.watch.arrival import Arrival
    from streamer.watch.settings import WatchSettings
    from streamer.watch.settling import HeaderCheck, SidecarRead

TICK_S = 0.25
"""How often the loop asks whether there is something to do; the longest it takes to notice ``stop``."""

# Files on these are written by other computers, which inotify does not report.
_NETWORK = re.compile(
    r"(nfs|nfs4|cifs|smb\w*|fuse.*|gpfs|lustre|beegfs|ceph|gluster.*|9p|afs|ncpfs|vboxsf|virtiofs|drvfs|panfs|"
    r"pvfs2|orangefs|prl_fs|vmhgfs)"
)
_NETWORK_SCAN_S, _NETWORK_POLL_S, _ROOT_MISSING_S = 5.0, 1.0, 1.0
# Neither each write to a file that is settling anyway, nor our own opening and closing of it.
_NEW_FILES: list[type[FileSystemEvent]] = [
    *(DirCreatedEvent, DirMovedEvent, FileCreatedEvent, FileMovedEvent, FileClosedEvent)
]
_MOST_TOLD = 10_000
_WATCHDOG = logging.getLogger("watchdog.observers.inotify_c")
# Scans take at most this share of the time.
_SCAN_SHARE = 0.1


class Watcher:
    """Watches one root.

    Parameters
    ----------
    settings : ``[watch]``.
    session_name : ``[session] name``, empty for none.
    known : identity of what has been processed by path below the root, as a mapping or a function; asked from
        the thread that runs ``arrivals``.
    header_check, sidecar_read : how files are read; raising only ``StreamerError``.
    """

    def __init__(
        self,
        settings: WatchSettings,
        *,
        session_name: str = "",
        known: Mapping[str, FileIdentity] | Callable[[str], FileIdentity | None] | None = None,
        clock: Clock = SYSTEM,
        header_check: HeaderCheck = movie_reader.read_header,
        sidecar_read: SidecarRead = sidecars.read_sidecar,
    ) -> None:
        self.root = settings.directory()
        self.scan_s = 0.0
        """How long the last full scan took, s."""
        self.skips = Skips()
        """What the last full scan left out."""
        self._settings, self._clock = settings, clock
        self._header_check, self._sidecar_read = header_check, sidecar_read
        ask = known.get if isinstance(known, Mapping) else known or (lambda _: None)
        self._settling = Settling(settings, root=self.root, session_name=session_name, known=ask, clock=clock)
        self._woken = threading.Event()
        self._events = _Events(self._woken)
        self._root_missing = False
        self._listed: set[str] = set()
        self._next_scan = self._next_poll = self._scan_allowed = -float("inf")

    @property
    def root_missing(self) -> bool:
        """Whether the root did not exist, or could not be read, at the last scan."""
        return self._root_missing

    @property
    def overflows(self) -> int:
        """How often the kernel has lost events because they were not read in time; a scan followed each time."""
        return self._events.overflows

    @property
    def mode(self) -> Literal["events", "polling"]:
        """Whether the kernel reports changes, or only scanning finds them."""
        return "events" if self._events.running else "polling"

    def waiting(self) -> dict[str, str]:
        """What each file that is not yet complete is waiting for, by path below the root."""
        return self._settling.waiting()

    def wake(self) -> None:
        """Scan soon. From any thread."""
        self._woken.set()

    def arrivals(self, stop: threading.Event) -> Iterator[Arrival]:
        """Yield each movie when it is complete, and each file that never will be, until ``stop`` is set.

        The same state of a file is never yielded twice, unless it disappeared in between. The root need not
        exist; what was seen before it went missing is kept.
        """
        try:
            while not stop.is_set():
                listing = self._look()
                if listing is not None:
                    for arrival in self._settling.observe(
                        self._clock.monotonic(), listing.files, self._header_check, self._sidecar_read
                    ):
                        yield self._with_fingerprint(arrival)
                    # free a long list before the next one is made
                    del listing
                stop.wait(TICK_S)
        finally:
            self._events.stop()

    def _with_fingerprint(self, arrival: Arrival) -> Arrival:
        """Hash a movie's ends where duplicates are to be found by them; what cannot be read now fails later."""
        if arrival.error is not None or self._settings.duplicates != "skip":
            return arrival
        with suppress(StreamerError), below(self.root, self._settings.places):
            return replace(arrival, fingerprint=movie_reader.fingerprint(Path(arrival.movie.path)))
        return arrival

    def _look(self) -> Listing | None:
        """Scan, look again at what is settling, or do nothing, whichever is due."""
        now = self._clock.monotonic()
        if now >= self._next_scan or (self._woken.is_set() and now >= self._scan_allowed):
            return self._scan(now)
        if self._root_missing or now < self._next_poll:
            return None
        waiting, told = self._settling.waiting(), self._changed()
        if not (waiting or told):
            return None
        listing = look_again(self.root, waiting.keys() | told, self._settings)
        if waiting and not listing.files:
            # All gone at once: a scan shows whether the root went with them.
            return self._scan(self._clock.monotonic())
        self._listed |= listing.names
        self._next_poll = self._clock.monotonic() + self._poll_s(self._clock.monotonic() - now)
        return listing

    def _changed(self) -> set[str]:
        """Movies that the kernel has reported since the last look, by path below the root."""
        told = set()
        for path, is_renamed in self._events.drain():
            relative = os.path.relpath(path, self.root)
            if os.path.islink(path):  # noqa: PTH114 - bytes that are no text stay
                self.wake()  # a scan knows what it leads to, and whether that is found without it
            elif is_movie_path(self.root, relative, self._settings):
                told.add(relative)
                if is_renamed:
                    self._settling.renamed(relative)
        return told

    def _scan(self, now: float) -> Listing | None:
        is_remote = is_on_network(self.root)
        use_events = self._settings.polling == "never" or (self._settings.polling == "auto" and not is_remote)
        # Cleared and followed before the scan, so that changes meanwhile cause another one.
        self._woken.clear()
        self._events.follow(self.root if use_events else None)
        self._changed()  # notes the renames; the files are all in the listing
        listing = scan(self.root, self._settings, self._settling.is_done)
        after = self._clock.monotonic()
        self.scan_s, self._root_missing = after - now, listing.root_missing
        if listing.root_missing:
            self._next_scan = after + min(self._settings.scan_interval_s, _ROOT_MISSING_S)
            return None
        # the kernel does not tell of what happens behind links
        is_told = self._events.running and not listing.has_links
        longest = self._settings.scan_interval_s if is_told else _NETWORK_SCAN_S
        for gone in self._listed - listing.names:
            self._settling.forget(gone)
        self._listed, self.skips = listing.names, listing.skips
        least = self._poll_s(self.scan_s)
        self._next_poll, self._scan_allowed = after + self._poll_s(0.0), after + least
        self._next_scan = after + max(min(self._settings.scan_interval_s, longest), least)
        return listing

    def _poll_s(self, took_s: float) -> float:
        return max(TICK_S if self._events.running else _NETWORK_POLL_S, took_s / _SCAN_SHARE)


def is_on_network(path: Path, mountinfo: str | None = None) -> bool:
    """Whether files below a path may be written by other computers.

    Parameters
    ----------
    mountinfo : as in ``/proc/self/mountinfo``; None: read that. Where it cannot be read the answer is no.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return False
    real = os.path.realpath(path)
    found = ("", "")
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        below = point == "/" or real == point or real.startswith(point + "/")
        # The last of several mounts on one point hides the others.
        if below and len(point) >= len(found[0]):
            found = (point, after.split(" ")[0])
    return _NETWORK.fullmatch(found[1]) is not None


class _Waker(FileSystemEventHandler):
    """Notes new files, and asks for a scan where that is not enough; it cannot raise, which would end its thread."""

    def __init__(self, woken: threading.Event) -> None:
        self._woken = woken
        self.told: deque[tuple[str, bool]] = deque()
        """Paths, and whether a file was renamed to it."""

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.is_directory or len(self.told) >= _MOST_TOLD:
            self._woken.set()
            return
        is_renamed = isinstance(event, FileMovedEvent)
        self.told.append((os.fsdecode(event.dest_path if is_renamed else event.src_path), is_renamed))


class _Overflows(logging.Handler):
    """Counts the overflows of the kernel's queue, which watchdog reports only to its log."""

    def __init__(self, woken: threading.Event) -> None:
        super().__init__(logging.WARNING)
        self._woken = woken
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if "overflowed" in record.getMessage():
            self.count += 1
            self._woken.set()


class _Events:
    """The kernel's events below a root that may vanish and come back."""

    def __init__(self, woken: threading.Event) -> None:
        self._waker, self._overflows = _Waker(woken), _Overflows(woken)
        self._observer: BaseObserver | None = None
        self._followed: tuple[int, int] | None = None

    @property
    def running(self) -> bool:
        return self._observer is not None

    @property
    def overflows(self) -> int:
        return self._overflows.count

    def drain(self) -> Iterator[tuple[str, bool]]:
        """Take the paths of new files since the last call, and whether each was renamed to its path."""
        while self._waker.told:
            yield self._waker.told.popleft()

    def follow(self, root: Path | None) -> None:
        """Let events of this root, as it is mounted now, wake the watcher; None: no events."""
        try:
            status = None if root is None else root.stat()
        except OSError:
            status = None
        wanted = None if status is None else (status.st_dev, status.st_ino)
        if wanted == self._followed and self._is_sound():
            return
        self.stop()
        self._followed = wanted
        if root is None or wanted is None:
            return
        observer = Observer()
        try:
            observer.schedule(self._waker, str(root), recursive=True, event_filter=_NEW_FILES)
            observer.start()
        except OSError:
            # Out of watches, or not watchable: scanning alone has to do.
            observer.unschedule_all()
            return
        self._observer = observer
        _WATCHDOG.addHandler(self._overflows)

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            _WATCHDOG.removeHandler(self._overflows)
            observer.stop()
            observer.join()

    def _is_sound(self) -> bool:
        observer = self._observer
        # Without an observer nothing is to be watched, or the kernel has refused it for this root.
        if observer is None:
            return True
        return observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)
