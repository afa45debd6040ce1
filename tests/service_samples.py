"""Movies, records and a running server for the tests of the service. Nothing here sleeps to synchronise."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from service.journal.database import Database
from service.journal.journal import MIGRATIONS, Journal
from service.publishing.publisher import Publisher
from service.wire.heartbeat import Heartbeat
from service.wire.messages import Alert
from streamer.errors import Reason
from streamer.movie_record import (
    ModelRef,
    MovieQuality,
    MovieRecord,
    MovieSource,
    OutputFile,
    Software,
    SuperResolutionVerdict,
    Times,
)
from streamer.records import FileIdentity, Movie, movie_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")
UTC = "2026-11-20T12:00:00.000Z"
REASON = Reason(error="MovieCorrupt", message="cut short", expected="40 frames", found="39")


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Poll until the condition holds; fail loudly when it never does."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {condition}")
        pause.wait(0.005)
    return result


@contextmanager
def changing(journal_file: Path) -> Iterator[Database]:
    """A second connection to a journal's file, and one transaction on it."""
    database = Database.open(journal_file, MIGRATIONS)
    try:
        with database.transaction():
            yield database
    finally:
        database.close()


def make_movie(relative: str = "grid1/a.tif", *, size: int = 100, mtime_ns: int = 1, inode: int = 1) -> Movie:
    identity = FileIdentity(device=1, inode=inode, size=size, mtime_ns=mtime_ns, ctime_ns=mtime_ns)
    session = relative.split("/", maxsplit=1)[0] if relative.startswith("grid") else "grid1"
    return Movie(path=f"/data/{relative}", relative=relative, session=session, identity=identity, evidence="header")


def make_record(
    relative: str = "grid1/a.tif", *, revision: int = 1, state: str = "done", **changes: Any
) -> MovieRecord:
    fields: dict[str, Any] = {"movie_id": movie_id_of(relative), "session": "grid1", "revision": revision}
    if state == "done":
        fields |= full_fields(relative)
    else:
        fields["reason"] = REASON
    return MovieRecord(**{**fields, "state": state, **changes})


def full_fields(relative: str, n_frames: int = 4) -> dict[str, Any]:
    return {
        "flags": ["unproven"],
        "source": MovieSource(
            path=relative,
            bytes=100,
            mtime_ns="1795176000123456789",
            fingerprint="f" * 64,
            format="tiff",
            n_frames=n_frames,
            height=64,
            width=96,
            evidence="header",
            pixel_size=0.83,
            voltage_kv=300.0,
            cs_mm=2.7,
            amplitude_contrast=0.1,
            dose_per_frame=1.25,
            pre_exposure=0.0,
            gain=None,
        ),
        "metrics": MovieQuality(
            shifts_yx_px=[[0.0, 0.0]] + [[0.5, -0.25]] * (n_frames - 1),
            total_motion_angstrom=1.5,
            early_motion_angstrom=1.0,
            late_motion_angstrom=0.5,
            local_motion_angstrom=0.0,
            motion_information=100.0,
            motion_trusted=True,
            mean_counts=1.25,
            n_hot_pixels=3,
            snr_half=0.1,
            ssnr_full=0.2,
            frc_resolution_angstrom=4.5,
            snbr_half_wiener=0.15,
            snbr_half_denoised=None,
            band_angstrom=[100.0, 6.0],
            frc=[1.0, 0.5],
            sr=SuperResolutionVerdict(verdict="cannot help", reason="no drift", diversity=0.1),
        ),
        "restoration": "network",
        "model": ModelRef(version="v0003", sha256="e" * 64, weight=((0.01, 1.0), (0.2, 0.0))),
        "outputs": [OutputFile(role="micrograph", path="movies/a.mrc", bytes=1000, sha256="d" * 64, shape=[64, 96])],
        "software": Software(
            version="0.1.0",
            torch="2.13",
            device="cpu",
            instruction_set="avx2",
            threads=2,
            settings_sha256="c" * 64,
        ),
        "times": Times(detected=UTC, ready=UTC, started=UTC, done=UTC, stage_s={"align": 0.5}),
    }


class Server:
    """A journal and a publisher in a thread of their own, as in the daemon's single-threaded loop."""

    def __init__(
        self,
        directory: Path,
        *,
        heartbeat_s: float = 0.05,
        events: str = "tcp://127.0.0.1:0",
        journal: str = "tcp://127.0.0.1:0",
        file: str = "journal.sqlite",
    ) -> None:
        self.directory, self.file, self.heartbeat_s = directory, file, heartbeat_s
        self.events, self.journal = events, journal
        self.local = ""
        self.beating = True
        self._tasks: queue.SimpleQueue[tuple[Callable[..., Any], Future[Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Server:
        """Start, or start again on the same ports."""
        self._stop.clear()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        started.result(10)
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, action: Callable[[Journal, Publisher], T]) -> T:
        """Do something in the server's thread."""
        done: Future[T] = Future()
        self._tasks.put((action, done))
        return done.result(20)

    def _run(self, started: Future[None]) -> None:
        try:
            journal = Journal.open(self.directory / self.file)
            publisher = Publisher(
                journal.events,
                events=self.events,
                journal=self.journal,
                preview="tcp://127.0.0.1:0",
                runtime_directory=self.directory / "run",
                control=lambda verb, arguments: {"did": verb, **arguments},
            )
        except BaseException as error:
            started.set_exception(error)
            return
        self.events, self.journal = publisher.events_endpoint, publisher.journal_endpoint
        self.local = publisher.journal_local
        started.set_result(None)
        try:
            self._loop(journal, publisher)
        finally:
            publisher.close()
            journal.close()

    def _loop(self, journal: Journal, publisher: Publisher) -> None:
        poller = zmq.Poller()
        for socket in publisher.sockets:
            poller.register(socket, zmq.POLLIN)
        due = 0.0
        while not self._stop.is_set():
            for socket, _ in poller.poll(5):
                publisher.handle(socket)
            while not self._tasks.empty():
                action, done = self._tasks.get()
                try:
                    done.set_result(action(journal, publisher))
                except Exception as error:
                    done.set_exception(error)
            if self.beating and time.monotonic() > due:
                publisher.heartbeat(Heartbeat(state="running"))
                due = time.monotonic() + self.heartbeat_s


def append(n: int, *, publish: bool = True) -> Callable[[Journal, Publisher], None]:
    """In the server's thread: make n events, and publish them at once or leave it to the next heartbeat."""

    def action(journal: Journal, publisher: Publisher) -> None:
        for _ in range(n):
            # a session that is called like the heartbeat is none
            journal.events.append(Alert(name="n", severity="info", state="raised"), "hb")
            if publish:
                publisher.publish_new()

    return action


def lose(n: int) -> Callable[[Journal, Publisher], None]:
    """In the server's thread: make n events whose messages get lost on their way."""

    def action(journal: Journal, publisher: Publisher) -> None:
        append(n, publish=False)(journal, publisher)
        publisher._cursor = journal.events.last_seq

    return action
