"""The daemon: start-up, one loop over everything that can happen, shutdown, in that order in this file.

One thread decides: it owns journal, sockets and children. A second thread only watches the directory; the
metrics' own thread only reads. SIGTERM finishes the movies in hand; a second signal leaves at once.
No torch here: a daemon is up in a fraction of a second, whatever its children need.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import zmq

from service.daemon.arrivals import WatchThread, watcher_of
from service.daemon.micrograph_tables import MicrographTables
from service.daemon.movies import MovieLifecycle
from service.daemon.operator import Operator
from service.daemon.picks import take_picks
from service.daemon.serving_version import ServingVersions
from service.daemon.temporaries import sweep_leftovers
from service.daemon.trainer_process import TrainerProcess
from service.daemon.upkeep import Upkeep
from service.daemon.worker_process import WorkerProcess
from service.health import systemd
from service.health.alarms import Alarms
from service.health.logs import log_to_stderr
from service.health.prometheus import Metrics
from service.health.start_checks import refuse_hopeless
from service.health.status import Status
from service.journal.database import lock_instance
from service.journal.journal import Journal
from service.layout import Endpoints, Layout, layout_of, prepare, write_endpoints
from service.named_versions import base_of
from service.publishing.publisher import Publisher
from service.wire.messages import SessionChange
from streamer.detector.gain_choice import GainChoice
from streamer.errors import OutputError, ServiceError, StreamerError
from streamer.runtime.clock import SYSTEM
from streamer.runtime.fault_point import fault_point

if TYPE_CHECKING:
    from types import FrameType

    from service.config import Config
    from streamer.runtime.clock import Clock

_log = logging.getLogger(__name__)

_TICK_S = 0.2
_HEARTBEAT_S = 1.0
_BUGS_IN_A_ROW = 5
_STOP_AFTER_S = 80.0
_ORDERS_PER_TURN = 16
"""So that sockets and heartbeat get their turn, however many movies wait for a gain."""


class Daemon:
    """One instance: one watched root, one journal, one worker, one trainer."""

    def __init__(self, config: Config, layout: Layout, clock: Clock = SYSTEM) -> None:
        """Check what can be checked at once; raises ConfigError, ServiceError."""
        self.config, self.layout, self._clock = config, layout, clock
        gains = GainChoice(layout.root, config.movie.gain, clock, config.watch.places)
        self.metrics = Metrics(clock)
        self.journal = Journal.open(
            layout.journal, instance=config.instance.name, clock=clock, on_commit=self.metrics.commit
        )
        self.alarms, self.status = Alarms(self.journal.events, self.metrics), Status(clock)
        self.versions = ServingVersions(layout, self.journal, self.metrics, base_of(config), clock)
        self.trainer = TrainerProcess(
            config,
            layout,
            to_learn=lambda session, specimen: self.movies.learning.to_learn(session, specimen),
            candidate=self.versions.judged,
            died=lambda ending: self.alarms.tell(
                "trainer-died", f"the training process ended ({ending}); another one is started"
            ),
            clock=clock,
        )
        self._tables = MicrographTables(layout.session_output, self.journal.movies.done, clock)
        self.movies = MovieLifecycle(
            config,
            layout,
            self.journal,
            gains=gains,
            versions=self.versions,
            trainer=self.trainer,
            tables=self._tables,
            metrics=self.metrics,
            status=self.status,
            alarms=self.alarms,
            clock=clock,
        )
        self.worker = WorkerProcess(
            config,
            self.journal,
            threads=config.compute.threads or max(1, (os.cpu_count() or 1) // 2),
            work_of=self.movies.order,
            finished=self.movies.finished,
            failed=self.movies.failed,
            restarted=self._worker_restarted,
            clock=clock,
        )
        self.upkeep = Upkeep(config, layout, self.journal, self.alarms, self.metrics, clock)
        self.movies.show = lambda record: self.publisher.show(record, layout.session_output(record.session))
        self.paused = False
        self._watching: WatchThread | None = None
        self._publisher: Publisher | None = None
        self._stop = threading.Event()
        self._next_heartbeat = 0.0
        self._bugs = 0

    # --------------------------------------------------------------------------------------------- the story

    def run(self) -> int:
        """Start, work until stopped, shut down; returns the exit status."""
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
        swept = sweep_leftovers(self.journal, self.layout)
        requeued = self.journal.requeue_started()
        _log.info("journal %s: %d movies resumed, %d temporary files removed", self.layout.journal, requeued, swept)
        bind = self.config.events.bind
        self._publisher = Publisher(
            self.journal.events,
            events=f"tcp://{bind}:{self.config.events.events_port}",
            journal=f"tcp://{bind}:{self.config.events.journal_port}",
            preview=f"tcp://{bind}:{self.config.events.preview_port}",
            runtime_directory=self.layout.runtime,
            control=Operator(self).carry_out,
            picks=partial(take_picks, self.journal, self.layout),
            published=self.metrics.published,
            answered=self.metrics.answered,
            clock=self._clock,
        )
        port = self.metrics.serve(self.config.metrics.port, bind)
        endpoints = Endpoints(
            instance=self.config.instance.name,
            events=self._publisher.events_endpoint,
            journal=self._publisher.journal_endpoint,
            local=self._publisher.journal_local,
            metrics=f"http://{bind}:{port}/metrics",
            pid=os.getpid(),
            preview=self._publisher.preview_endpoint,
        )
        write_endpoints(self.layout, endpoints)
        self._resume_sessions()
        self.worker.start()
        known = self.journal.movies.identities()
        self._watching = WatchThread(watcher_of(self.config, known, self._clock))
        self.journal.events.append(
            SessionChange(state="started", message=f"watching {self.layout.root}"), self.movies.session
        )
        self._beat("running")
        systemd.notify(ready=True, status=f"watching {self.layout.root}")
        self.upkeep.verify_outputs()
        _log.info("watching %s, events on %s", self.layout.root, endpoints.events)

    def _guarded_turn(self) -> None:
        """One turn of the loop. A bug of ours is reported and survived, unless it occurs repeatedly."""
        try:
            self._turn()
            self._bugs = 0
        except StreamerError:
            raise
        except Exception:
            self._bugs += 1
            traceback.print_exc()
            bug = traceback.format_exc(limit=-1).strip().splitlines()[-1]
            self.alarms.tell("internal-error", f"a fault of this program, please report it: {bug}", "critical")
            if self._bugs >= _BUGS_IN_A_ROW:
                raise

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        fault_point("turn")
        self._wait()
        if self._watching is not None:
            for arrival in self._watching.arrivals():
                self.movies.arrived(arrival)
        self.worker.attend()
        self.trainer.attend(self.journal.movies.pending())
        if not (self.paused or self.movies.is_holding or self.upkeep.is_short_of_space):
            for _ in range(_ORDERS_PER_TURN):
                if not self.worker.dispatch():
                    break
        self.publisher.publish_new()
        self._write_tables()
        if self._clock.monotonic() >= self._next_heartbeat:
            self._beat("paused" if self.paused else "running")

    def _shut_down(self) -> int:
        """Start nothing new, let what was begun finish, announce the end, close."""
        systemd.notify(stopping=True, status="finishing the movies in hand")
        _log.info("stopping")
        self._stop_watching()
        self.trainer.close()
        self.worker.finish()
        deadline = self._clock.monotonic() + _STOP_AFTER_S
        while not self.worker.has_ended and self._clock.monotonic() < deadline:
            self._wait()
            self.worker.attend()
            self.publisher.publish_new()
            if self._clock.monotonic() >= self._next_heartbeat:
                self._beat("stopping")
        self.worker.close(0.0)
        self.journal.requeue_started(counted=False)
        self._write_tables(now=True)
        self.alarms.clear_all()
        self.journal.events.append(SessionChange(state="stopped"), self.movies.session)
        self._beat("stopped")
        _log.info("stopped")
        return 0

    def release(self) -> None:
        """Release everything, in whatever state start-up or the loop left it."""
        self._stop.set()
        self.trainer.close()
        self.worker.close(0.0)
        self._stop_watching()
        if self._publisher is not None:
            self._publisher.close()
        self.upkeep.close()
        self.metrics.stop()
        self.journal.close()

    # ----------------------------------------------------------------------------------------------- details

    @property
    def publisher(self) -> Publisher:
        """The open sockets; there are none before start-up."""
        if self._publisher is None:
            raise ServiceError("the sockets are not open yet")
        return self._publisher

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.close()
            self._watching = None

    def _worker_restarted(self, ending: str, given_up: list[str]) -> None:
        self.metrics.worker_restarted()
        self.alarms.tell("worker-died", f"the worker process ended ({ending}); another one goes on")
        _log.warning("the worker exited (%s)", ending)
        for movie_id in given_up:
            self.movies.gave_up(movie_id)

    def _resume_sessions(self) -> None:
        """Resume the session that was collected last: its model stays in service, its trainer continues."""
        if not self.config.session.name:
            self.movies.session = self.journal.movies.latest_session() or ""
        if self.movies.session:
            self._tables.resume(self.movies.session)
            served = self.versions.version(self.movies.session)
            self.metrics.model(served, None)
            specimen = self.movies.specimens.session(self.movies.session).current
            self.metrics.specimen(specimen)
            to_learn = self.movies.learning.to_learn(self.movies.session, specimen)
            if to_learn:
                self.trainer.learn(self.movies.session, to_learn[-1], specimen)

    def _write_tables(self, *, now: bool = False) -> None:
        try:
            if self._tables.write(now=now):
                self.alarms.clear("table-failing")
        except OutputError as error:
            self.alarms.raise_("table-failing", str(error), "critical")

    def _beat(self, state: str) -> None:
        """Heartbeat, gauges, sign of life to systemd."""
        self._next_heartbeat = self._clock.monotonic() + _HEARTBEAT_S
        self.upkeep.look(self._watching, self.movies.load.shed)
        counts, oldest = self.journal.movies.counts_by_state(), self.journal.movies.oldest_pending()
        specimens = self.movies.specimens.session(self.movies.session) if self.movies.session else None
        beat = self.publisher.heartbeat(
            self.status.heartbeat(
                state=state,
                session=self.movies.session,
                watching=str(self.layout.root),
                device=self.worker.device,
                counts=counts,
                settling=0 if self._watching is None else self._watching.settling,
                oldest_pending=oldest,
                model_version=self.versions.version(self.movies.session) if self.movies.session else None,
                specimen=specimens.current if specimens else 1,
                empty_in_a_row=specimens.empty_in_a_row if specimens else 0,
                training=self.trainer.is_training,
                disk_free_bytes=self.upkeep.disks.free(),
                alarms=self.alarms.raised,
                shedding=self.movies.load.shed,
                skipped=self.movies.skipped.look(self._watching),
            )
        )
        self.metrics.pending(counts, oldest)
        self.metrics.log(beat.seq, self.publisher.subscribers)
        self.metrics.training(self.trainer.is_training)
        self.metrics.shedding(self.movies.load.shed)
        self.metrics.alive("daemon")
        if self.worker.device:
            self.metrics.build(version("cryoem-streamer"), self.worker.device)
        systemd.notify(watchdog=True, status=f"{state}, {beat.pending} pending, model {beat.model_version or 'none'}")

    def _wait(self) -> None:
        """Sleep until a socket, a child or the watcher has something, or the tick is over."""
        poller = zmq.Poller()
        for socket in self.publisher.sockets:
            poller.register(socket, zmq.POLLIN)
        for source in (self._watching, self.worker, self.trainer):
            descriptor = None if source is None else source.fileno()
            if descriptor is not None:
                poller.register(descriptor, zmq.POLLIN)
        ready = dict(poller.poll(round(_TICK_S * 1000)))
        for socket in self.publisher.sockets:
            if socket in ready:
                self.publisher.handle(socket)

    def _handle_signals(self) -> None:
        def stop(number: int, _frame: FrameType | None) -> None:
            # a closed terminal sends several hang-ups
            if self._stop.is_set() and number != signal.SIGHUP:
                os._exit(1)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)


def run(config: Config) -> int:
    """Run a daemon in the foreground until it is stopped; returns the exit status."""
    log_to_stderr()
    layout = layout_of(config)
    refuse_hopeless(config, layout)
    prepare(layout)
    with lock_instance(layout.state):
        return Daemon(config, layout).run()
