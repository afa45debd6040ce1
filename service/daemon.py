"""The daemon: start-up, one loop over everything that can happen, shutdown, in that order in this file.

One thread decides: it owns journal, sockets and children. A second thread only watches the directory and hands over
what it finds; the metrics' own thread only reads. SIGTERM finishes the movies in hand; a second signal leaves at once.
No torch here: a daemon is up in a fraction of a second, whatever its children need.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import zmq

from models.store import ModelStore
from service import systemd
from service.control import Control
from service.crew import Crew
from service.database import lock_instance
from service.eventlog import utc_seconds, utc_text
from service.gains import GainChoice
from service.journal import Journal
from service.layout import Endpoints, Layout, layout_of, prepare, write_endpoints
from service.messages import ModelChange, SessionChange
from service.pipes import Candidate, Failed, Finished, Learn, Work
from service.prometheus import Metrics
from service.publisher import Publisher
from service.stars import MicrographTables
from service.status import Alarms, Status, free_bytes
from service.teacher import Teacher
from streamer.errors import MovieNotReady, OutputError, ServiceError, StreamerError
from streamer.records import MovieRecord, Times
from streamer.stopwatch import utc_now
from streamer.watch import Watcher
from streamer.writers.atomic import sweep_temporaries

if TYPE_CHECKING:
    from types import FrameType

    from service.config import Config
    from service.movietable import JournalMovie
    from streamer.settling import Arrival

_log = logging.getLogger(__name__)

_TICK_S = 0.2
_HEARTBEAT_S = 1.0
_BUGS_IN_A_ROW = 5
_STOP_AFTER_S = 80.0
_HOLD_AFTER_OUTPUT_ERROR_S = 5.0
_LESSONS = 160


class Daemon:
    """One instance: one watched root, one journal, one worker, one trainer."""

    def __init__(self, config: Config, layout: Layout) -> None:
        """Check what can be checked at once; raises ConfigError, ServiceError."""
        self.config, self.layout = config, layout
        self._gains = GainChoice(layout.root, config.movie.gain)
        self._gains.path()
        self.metrics = Metrics()
        self.journal = Journal.open(self.layout.journal, instance=config.instance.name, on_commit=self.metrics.commit)
        self.alarms = Alarms(self.journal, self.metrics)
        self.status = Status()
        self.paused = False
        self.session = config.session.name or ""
        self._tables = MicrographTables(self.layout.session_output)
        self._serving: dict[str, str | None] = {}
        self._complete: dict[str, str] = {}
        self._watcher: Watcher | None = None
        self._publisher: Publisher | None = None
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop = threading.Event()
        self._hold_until = 0.0
        self._next_heartbeat = 0.0
        self._bugs = 0
        self.crew = Crew(
            config,
            self.journal,
            threads=config.compute.threads or max(1, (os.cpu_count() or 1) // 2),
            work_of=self._work_of,
            finished=self._finished,
            failed=self._failed,
            restarted=self._worker_restarted,
        )
        self.teacher = Teacher(
            config,
            self.layout,
            lessons=self._lessons,
            candidate=self._candidate,
            died=lambda ending: self.alarms.tell("trainer-died", f"the trainer ended ({ending}); it is started again"),
        )

    # --------------------------------------------------------------------------------------------- the story

    def run(self) -> int:
        """Start, work until told to stop, shut down; returns the exit status."""
        self._handle_signals()
        try:
            self._start_up()
            while not self._stop.is_set():
                self._guarded_turn()
            return self._shut_down()
        finally:
            self.release()

    def _start_up(self) -> None:
        """Journal first, then sockets, then children, then the directory."""
        requeued = self.journal.requeue_started()
        swept = sweep_temporaries(self.layout.output)
        _log.info(
            "journal %s: %d movies taken up again, %d temporary files swept", self.layout.journal, requeued, len(swept)
        )
        self._tables.load(self._finished_records())
        bind = self.config.events.bind
        self._publisher = Publisher(
            self.journal,
            events=f"tcp://{bind}:{self.config.events.events_port}",
            journal=f"tcp://{bind}:{self.config.events.journal_port}",
            runtime_directory=self.layout.runtime,
            control=Control(self).carry_out,
            published=self.metrics.published,
            answered=self.metrics.answered,
        )
        port = self.metrics.serve(self.config.metrics.port, bind)
        endpoints = Endpoints(
            instance=self.config.instance.name,
            events=self._publisher.events_endpoint,
            journal=self._publisher.journal_endpoint,
            local=self._publisher.journal_local,
            metrics=f"http://{bind}:{port}/metrics",
            pid=os.getpid(),
        )
        write_endpoints(self.layout, endpoints)
        self._resume_sessions()
        self.crew.start()
        known, name = self.journal.identities(), self.config.session.name or ""
        self._watcher = Watcher(self.config.watch, session_name=name, known=known)
        self._watching = threading.Thread(target=self._watch, args=(self._watcher,), name="watch", daemon=True)
        self._watching.start()
        self.journal.append(SessionChange(state="started", message=f"watching {self.layout.root}"), self.session)
        self._beat("running")
        systemd.notify(ready=True, status=f"watching {self.layout.root}")
        _log.info("watching %s, events on %s", self.layout.root, endpoints.events)

    def _guarded_turn(self) -> None:
        """One turn of the loop. A bug of ours is told and survived, unless it comes again and again."""
        try:
            self._turn()
            self._bugs = 0
        except StreamerError:
            raise
        except Exception:
            self._bugs += 1
            traceback.print_exc()
            self.alarms.tell("internal-error", traceback.format_exc(limit=-1).strip().splitlines()[-1], "critical")
            if self._bugs >= _BUGS_IN_A_ROW:
                raise

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        self._wait()
        while not self._arrivals.empty():
            self._arrived(self._arrivals.get())
        self.crew.attend()
        self.teacher.attend(self.journal.pending())
        if not self.paused and time.monotonic() >= self._hold_until:
            while self.crew.dispatch():
                pass
        self.publisher.publish_new()
        self._write_tables()
        if time.monotonic() >= self._next_heartbeat:
            self._beat("paused" if self.paused else "running")

    def _shut_down(self) -> int:
        """Take nothing new, let what was begun be finished, tell the world, close."""
        systemd.notify(stopping=True, status="finishing the movies in hand")
        _log.info("stopping")
        self.teacher.close()
        self.crew.finish()
        deadline = time.monotonic() + _STOP_AFTER_S
        while not self.crew.has_ended and time.monotonic() < deadline:
            self._wait()
            self.crew.attend()
            self.publisher.publish_new()
            if time.monotonic() >= self._next_heartbeat:
                self._beat("stopping")
        self.crew.close(0.0)
        self.journal.requeue_started()
        self._write_tables(now=True)
        self.journal.append(SessionChange(state="stopped"), self.session)
        self._beat("stopped")
        _log.info("stopped")
        return 0

    def release(self) -> None:
        """Give everything back, in whatever state start-up or the loop left it."""
        self._stop.set()
        self.teacher.close()
        self.crew.close(0.0)
        if self._watcher is not None:
            self._watching.join(5.0)
        if self._publisher is not None:
            self._publisher.close()
        self.metrics.stop()
        self.journal.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # ---------------------------------------------------------------------------------------------- arrivals

    @property
    def publisher(self) -> Publisher:
        """Open sockets; there are none before start-up."""
        if self._publisher is None:
            raise ServiceError("the sockets are not open yet")
        return self._publisher

    def _watch(self, watcher: Watcher) -> None:
        """Body of the watching thread."""
        for arrival in watcher.arrivals(self._stop):
            self._arrivals.put(arrival)
            self._wake()

    def _arrived(self, arrival: Arrival) -> None:
        """Journal a movie that is whole, or one that will not be."""
        movie = arrival.movie
        self.metrics.detected()
        self.metrics.ready(arrival.waited_s)
        self._new_session(movie.session)
        if arrival.error is None:
            complete = utc_seconds(arrival.ready_utc) - arrival.still_s
            self._complete[movie.movie_id] = utc_text(complete)
            self.journal.add_ready(movie, arrival.detected_utc, arrival.ready_utc)
            return
        record = MovieRecord(
            movie_id=movie.movie_id,
            session=movie.session,
            state="incomplete" if isinstance(arrival.error, MovieNotReady) else "failed",
            reason=arrival.error.reason(),
            times=Times(detected=arrival.detected_utc, ready=arrival.ready_utc),
        )
        event = self.journal.add_final(movie, record, arrival.detected_utc)
        if event is not None:
            self.metrics.finished(record, stage="arrival")
            _log.warning("%s: %s", movie.relative, arrival.error)

    def _new_session(self, session: str) -> None:
        if session != self.session:
            self.session = session
            self.journal.append(SessionChange(state="started"), session)

    # -------------------------------------------------------------------------------------------------- work

    def _work_of(self, movie: JournalMovie) -> Work:
        """Make the order for a movie: with which gain, which model, where to."""
        gain, session = self._gains.path(), movie.movie.session
        serving = self._served(session) if self.config.denoise.enabled else None
        return Work(
            movie=movie.movie,
            times=Times(
                detected=movie.detected_utc,
                complete=self._complete.pop(movie.movie.movie_id, None),
                ready=movie.ready_utc,
                started=utc_now(),
            ),
            gain=None if gain is None else str(gain),
            model=None if serving is None else str(self.layout.models(session) / serving),
            output=str(self.layout.session_output(session)),
            groups=str(self.layout.groups(movie.movie.movie_id)) if self.config.session_model.enabled else None,
        )

    def _finished(self, message: Finished) -> None:
        """Make a result durable, then known, then learned from."""
        record = message.record
        event = self.journal.finish(record)
        if event is None:
            return  # superseded or skipped while it was computed
        self.publisher.publish_new()
        self.metrics.finished(record, latency_s=self.status.finished(record))
        self.alarms.clear("outputs-failing")
        self.alarms.clear("gain-unreadable")
        self._tables.add(record)
        groups = self.layout.groups(record.movie_id)
        if groups.is_file():
            self.teacher.learn(record.session, Learn(movie_id=record.movie_id, groups=str(groups)))
        _log.info("%s done, %s", record.source.path if record.source else record.movie_id, record.restoration)

    def _failed(self, message: Failed) -> None:
        """Decide what becomes of a movie that could not be processed."""
        reason = message.reason
        _log.warning("%s", reason.message)
        if message.kind == "not-ready" and not self._waited_long(message.movie_id):
            self.journal.retry_later(message.movie_id, message.revision, reason, counted=False)
        elif message.kind in ("output", "config"):
            name = "outputs-failing" if message.kind == "output" else "gain-unreadable"
            self.alarms.raise_(name, reason.message, "critical")
            self._hold_until = time.monotonic() + _HOLD_AFTER_OUTPUT_ERROR_S
            self.journal.retry_later(message.movie_id, message.revision, reason, counted=False)
        elif message.kind == "device":
            self.journal.retry_later(message.movie_id, message.revision, reason)
        else:
            self._end(message)
            return
        self.metrics.retried(reason.error)

    def _end(self, message: Failed) -> None:
        """Journal a movie that failed, or never became whole."""
        known = self.journal.movie(message.movie_id, message.revision)
        record = MovieRecord(
            movie_id=message.movie_id,
            session=known.movie.session if known else self.session,
            revision=message.revision,
            state="incomplete" if message.kind == "not-ready" else "failed",
            reason=message.reason,
            times=Times(stage_s=message.stage_s),
        )
        if self.journal.finish(record) is not None:
            self.metrics.finished(record, stage=message.stage)

    def _waited_long(self, movie_id: str) -> bool:
        """Whether a file that is not whole has stood still for as long as the settings allow."""
        known = self.journal.movie(movie_id)
        if known is None:
            return True
        still = time.time() - known.movie.identity.ctime_ns / 1e9
        return still > self.config.watch.incomplete_after_s

    def _worker_restarted(self, ending: str) -> None:
        self.metrics.worker_restarted()
        self.alarms.tell("worker-died", f"the worker ended ({ending}); another one was started")
        _log.warning("the worker ended (%s)", ending)

    # ------------------------------------------------------------------------------------------------- model

    def _served(self, session: str) -> str | None:
        """Version that serves a session."""
        if session not in self._serving:
            self._serving[session] = ModelStore(self.layout.models(session)).current()
        return self._serving[session]

    def serve(self, session: str, model: str | None, change: ModelChange) -> None:
        """Let a version serve from the next movie on: journalled first, then marked in the store."""
        self.journal.append(change, session)
        ModelStore(self.layout.models(session)).set_current(model)
        self._serving[session] = model
        self.metrics.model(model, utc_now() if model else None)

    def _candidate(self, session: str, message: Candidate) -> None:
        """Hear the gate's decision."""
        change = ModelChange(
            version=message.version,
            result=message.result,
            reason=message.reason,
            sha256=message.sha256,
            figures=message.figures,
        )
        self.metrics.candidate(message.result)
        _log.info("model %s %s: %s", message.version, message.result, message.reason)
        if message.result == "promoted":
            self.serve(session, message.version, change)
        else:
            self.journal.append(change, session)

    def _lessons(self, session: str) -> list[Learn]:
        """Finished movies of a session whose group sums are still there, oldest first."""
        movies = self.journal.movies(session=session, state="done", limit=_LESSONS)
        paths = [(m.movie.movie_id, self.layout.groups(m.movie.movie_id)) for m in reversed(movies)]
        return [Learn(movie_id=movie_id, groups=str(path)) for movie_id, path in paths if path.is_file()]

    def _resume_sessions(self) -> None:
        """Take up the session that was collected last: its model serves on, its trainer goes on."""
        newest = self.journal.movies(limit=1)
        if newest and not self.config.session.name:
            self.session = newest[0].movie.session
        if self.session:
            served = self._served(self.session)
            self.metrics.model(served, None)
            lessons = self._lessons(self.session)
            if lessons:
                self.teacher.learn(self.session, lessons[-1])

    # ----------------------------------------------------------------------------------------------- details

    def _finished_records(self) -> list[MovieRecord]:
        """Records of all movies that are done, oldest first."""
        movies = reversed(self.journal.movies(state="done", limit=1_000_000))
        return [msgspec.convert(m.record, MovieRecord) for m in movies if m.record is not None]

    def _write_tables(self, *, now: bool = False) -> None:
        try:
            self._tables.write(now=now)
        except OutputError as error:
            self.alarms.raise_("outputs-failing", str(error), "critical")

    def _beat(self, state: str) -> None:
        """Heartbeat, gauges, sign of life to systemd."""
        self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
        if self._watcher is not None and self._watcher.root_missing:
            self.alarms.raise_("root-missing", f"{self.layout.root} is not there")
        else:
            self.alarms.clear("root-missing")
        counts, oldest = self.journal.counts_by_state(), self.journal.oldest_pending()
        disks = {"output": self.layout.output, "state": self.layout.state, "input": self.layout.root}
        beat = self.publisher.heartbeat(
            self.status.heartbeat(
                state=state,
                session=self.session,
                watching=str(self.layout.root),
                device=self.crew.device,
                counts=counts,
                oldest_pending=oldest,
                model_version=self._served(self.session) if self.session else None,
                training=self.teacher.is_training,
                disks=disks,
                alarms=self.alarms.raised,
            )
        )
        self.metrics.pending(counts, oldest)
        self.metrics.log(beat.seq, self.publisher.subscribers)
        self.metrics.training(self.teacher.is_training)
        for name, path in disks.items():
            self.metrics.disk(name, free_bytes(path))
        self.metrics.alive("daemon")
        self.metrics.build(version("cryoem-streamer"), self.crew.device or "starting")
        systemd.notify(watchdog=True, status=f"{state}, {beat.pending} pending, model {beat.model_version or 'none'}")

    def _wait(self) -> None:
        """Sleep until a socket, a child or the watcher has something, or the tick is over."""
        poller = zmq.Poller()
        for socket in self.publisher.sockets:
            poller.register(socket, zmq.POLLIN)
        for descriptor in (self._wake_read, self.crew.fileno(), self.teacher.fileno()):
            if descriptor is not None:
                poller.register(descriptor, zmq.POLLIN)
        ready = dict(poller.poll(round(_TICK_S * 1000)))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        for socket in self.publisher.sockets:
            if socket in ready:
                self.publisher.handle(socket)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # it is awake already

    def _handle_signals(self) -> None:
        def stop(_number: int, _frame: FrameType | None) -> None:
            if self._stop.is_set():
                os._exit(1)
            self._stop.set()
            self._wake()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)


def run(config: Config) -> int:
    """Run a daemon in the foreground until it is told to stop; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    layout = layout_of(config)
    prepare(layout)
    with lock_instance(layout.state):
        return Daemon(config, layout).run()
