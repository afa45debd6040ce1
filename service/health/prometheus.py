"""The daemon's Prometheus metrics: one registry, prefix ``streamer_``, bounded labels, never NaN.

No session, movie, path or user ever becomes a label. An unknown value is left out, never exported as 0. Each
method records something that happened; a scrape touches neither GPU, disk nor journal.
"""

from __future__ import annotations

import math
import platform
import re
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from service.config import ORDER
from service.health.gauges import KnownGauge
from service.health.movie_gauges import MovieGauges
from service.wire.loopback import check_loopback
from streamer.errors import ServiceError
from streamer.movie_record import DENOISER
from streamer.runtime.clock import SYSTEM, utc_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamer.movie_record import MovieRecord
    from streamer.runtime.clock import Clock

MAX_VALUES = 20
"""Distinct values that a label may take; all further ones are exported as ``other``."""
_STAGE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LATENCY_BUCKETS: Final = (0.5, 1, 2, 5, 10, 20, 30, 45, 60, 120, 300)
_DEFOCUS_BUCKETS: Final = (2000, 4000, 6000, 8000, 10_000, 12_500, 15_000, 17_500, 20_000, 25_000, 30_000, 40_000)
_RESOLUTION_BUCKETS: Final = (3, 3.25, 3.5, 3.75, 4, 4.5, 5, 6, 7, 8, 10, 15)
_COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


class Metrics:
    """All metrics of a daemon. Call a method when something happens; ``serve`` exports them."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        # Otherwise every counter and histogram gets a second series that says when this object was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._clock = clock
        self._seen: dict[str, set[str]] = {}
        self._stop_server: Callable[[], None] = lambda: None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._make_counters()
        self._make_gauges()
        self._last_movie = MovieGauges(self._gauge)

    def _make_counters(self) -> None:
        counter, histogram = self._counter, self._histogram
        self._detected = counter("movies_detected", "Movies that were found complete.")
        self._movies = counter("movies", "Movies that reached a final state.", "state")
        self._failures = counter("movie_failures", "Movies that failed.", "stage", "reason")
        self._frames = counter("frames", "Frames of finished movies.")
        self._input = counter("input_bytes", "Bytes of finished movies.")
        self._output = counter("output_bytes", "Bytes written for finished movies.")
        self._super_resolution_verdicts = counter(
            "super_resolution_verdicts", "Verdicts on whether super-resolution helps a movie.", "verdict"
        )
        self._retries = counter("retries", "Movies returned to the queue for another attempt.", "reason")
        self._published = counter("events_published", "Events sent to subscribers.", "kind")
        self._replays = counter("replay_requests", "Pages of events that subscribers requested.", "result")
        self._restarts = counter("worker_restarts", "Worker processes that had to be replaced.")
        self._candidates = counter("model_candidates", "Versions of the denoiser that were judged.", "result")
        self._super_resolution_candidates = counter(
            "super_resolution_candidates",
            "Versions of super-resolution networks that were judged.",
            "network",
            "result",
        )
        self._overflows = counter("watcher_overflows", "Times that the kernel lost events for the watched directory.")
        self._overflows_seen = 0
        self._specimen_changes = counter("specimen_changes", "Times that a different specimen was detected.")
        self._empty = counter("movies_empty", "Finished movies in which there was nothing to see.")
        self._ctf = counter(
            "movies_ctf", "Finished movies by what their CTF is: none (no rings), weak or good.", "state"
        )
        self._defocus = histogram(
            "ctf_defocus_angstrom",
            "Mean defocus of movies that have rings; positive: underfocus.",
            _DEFOCUS_BUCKETS,
        )
        self._ctf_resolution = histogram(
            "ctf_fit_resolution_angstrom", "Resolution to which a movie's rings are followed.", _RESOLUTION_BUCKETS
        )
        self._ready_delay = histogram(
            "movie_ready_delay_seconds",
            "From the detection of a file until it is known to be complete.",
            _LATENCY_BUCKETS,
        )
        self._latency = histogram("movie_latency_seconds", "From a file being complete to its event.", _LATENCY_BUCKETS)
        self._stages = histogram(
            "stage_duration_seconds", "Time that a movie spends in a stage.", _STAGE_BUCKETS, "stage"
        )
        self._commits = histogram(
            "journal_commit_duration_seconds", "Time to commit a change to the journal.", _COMMIT_BUCKETS
        )

    def _make_gauges(self) -> None:
        gauge = self._gauge
        self._pending = gauge("movies_pending", "Movies that are waiting or in progress.", "state")
        self._oldest = gauge("oldest_pending_detected_timestamp_seconds", "When the oldest pending movie was detected.")
        self._last_done = gauge("last_movie_done_timestamp_seconds", "When the last movie was done.")
        self._last_seq = gauge("event_last_seq", "Number of the newest event.")
        self._subscribers = gauge("subscribers", "Subscribers that receive the heartbeat.")
        self._disk_free = gauge("disk_free_bytes", "Free space.", "volume")
        self._model_version = gauge("model_version", "Number of the serving version.")
        self._promoted = gauge("model_promoted_timestamp_seconds", "When the serving version was promoted.")
        self._specimen = gauge("specimen", "Which of the session's specimens is in the microscope, counted from 1.")
        self._training = gauge("training_active", "Whether the trainer is training.")
        self._alive = gauge("heartbeat_timestamp_seconds", "Last sign of life of a part of the daemon.", "stage")
        self._left_out = gauge(
            "files_left_out", "Files below the watched root that are no movies, by the reason.", "rule"
        )
        self._alerts = gauge("alert_active", "Whether an alert of the daemon is raised.", "name")
        self._shed = gauge("shedding_active", "Whether a step is left out because movies arrive too fast.", "step")
        self._build = gauge("build_info", "Version, Python and device of the daemon.", "version", "python", "device")

    # ----------------------------------------------------------------------------------------- what happened

    def detected(self) -> None:
        """Count a movie that was found complete."""
        self._detected.inc()

    def ready(self, delay_s: float | None) -> None:
        """Record how long it took to be sure that a movie is complete."""
        _observe(self._ready_delay, delay_s)

    def finished(self, record: MovieRecord, *, latency_s: float | None = None, stage: str = "unknown") -> None:
        """Record the figures of a movie that reached a final state.

        Parameters
        ----------
        latency_s : from the file being complete to the event, s.
        stage : where it failed.
        """
        self._movies.labels(record.state).inc()
        if record.reason is not None and record.state in ("failed", "quarantined"):
            reason = self._bounded("reason", record.reason.error)
            self._failures.labels(self._bounded("stage", stage), reason).inc()
        for name, seconds in record.times.stage_s.items():
            _observe(self._stages.labels(self._bounded("stage", name)), seconds)
        if record.state != "done":
            return
        _observe(self._latency, latency_s)
        self._last_done.set(self._clock.wall())
        self._output.inc(sum(output.bytes for output in record.outputs))
        if record.source is not None:
            self._frames.inc(record.source.n_frames)
            self._input.inc(record.source.bytes)
        self._last_movie.show_ctf(record.ctf)
        if record.ctf is not None:
            self._ctf.labels(record.ctf.state).inc()
            _observe(self._defocus, record.ctf.defocus_angstrom)
            _observe(self._ctf_resolution, record.ctf.fit_resolution_angstrom)
        if record.metrics is not None:
            self._last_movie.show(record.metrics)
            verdict = self._bounded("verdict", record.metrics.sr.verdict)
            self._super_resolution_verdicts.labels(verdict).inc()

    def retried(self, reason: str) -> None:
        """Count a movie that is returned to the queue; ``reason`` is the name of an error class."""
        self._retries.labels(self._bounded("reason", reason)).inc()

    def pending(self, counts: Mapping[str, int], oldest_detected: float | None) -> None:
        """Set how many movies are ready and started, and when the oldest was detected (UTC seconds)."""
        for state in ("ready", "started"):
            self._pending.set(counts.get(state, 0), state)
        self._oldest.set(oldest_detected)

    def published(self, kind: str) -> None:
        """Count an event that was sent."""
        self._published.labels(self._bounded("kind", kind)).inc()

    def answered(self, verb: str, result: str) -> None:
        """Count a request; ``result`` is ``ok`` or an error code."""
        if verb == "REPLAY":
            self._replays.labels(self._bounded("result", result.lower())).inc()

    def log(self, last_seq: int, subscribers: int) -> None:
        """Set the newest event and the number of subscribers."""
        self._last_seq.set(last_seq)
        self._subscribers.set(subscribers)

    def commit(self, seconds: float) -> None:
        """Record the duration of a journal commit."""
        _observe(self._commits, seconds)

    def disks(self, free_bytes: Mapping[str, int]) -> None:
        """Set the free space of the volumes; one that does not answer has no sample."""
        for volume in ("state", "output", "input"):
            self._disk_free.set(free_bytes.get(volume), volume)

    def overflows(self, total: int) -> None:
        """Count up to the number of overflows since the start."""
        self._overflows.inc(max(0, total - self._overflows_seen))
        self._overflows_seen = max(total, self._overflows_seen)

    def left_out(self, rule: str, count: int) -> None:
        """Set how many files a rule, or what they are, has left out."""
        self._left_out.set(count, self._bounded("rule", rule))

    def shedding(self, shed: tuple[str, ...]) -> None:
        """Set what is left out under load."""
        for name in ORDER:
            self._shed.set(name in shed, name)

    def worker_restarted(self) -> None:
        """Count a worker that had to be replaced."""
        self._restarts.inc()

    def model(self, version: str | None, promoted_utc: str | None) -> None:
        """Set the serving version: ``v0003`` is 3; None: no model yet."""
        number = re.search(r"\d+", version or "")
        self._model_version.set(int(number.group()) if number else None)
        self._promoted.set(utc_seconds(promoted_utc) if promoted_utc else None)

    def candidate(self, result: str, network: str = DENOISER) -> None:
        """Count a version that was promoted, rejected, ..."""
        result = self._bounded("candidate", result)
        if network == DENOISER:
            self._candidates.labels(result).inc()
        else:
            self._super_resolution_candidates.labels(self._bounded("network", network), result).inc()

    def specimen(self, number: int, *, changed: bool = False) -> None:
        """Set which of the session's specimens is in the microscope; count a change."""
        self._specimen.set(number)
        if changed:
            self._specimen_changes.inc()

    def empty_movie(self) -> None:
        """Count a movie in which there was nothing to see."""
        self._empty.inc()

    def training(self, active: bool) -> None:
        """Set whether the trainer is training."""
        self._training.set(active)

    def alive(self, stage: str) -> None:
        """Note a sign of life of a part of the daemon."""
        self._alive.set(self._clock.wall(), self._bounded("part", stage))

    def alert(self, name: str, active: bool) -> None:
        """Set whether an alert is raised."""
        self._alerts.set(active, self._bounded("alert", name))

    def build(self, version: str, device: str) -> None:
        """Set what is running."""
        self._build.set(1, version, platform.python_version(), device)

    # ----------------------------------------------------------------------------------------------- serving

    def serve(self, port: int, address: str = "127.0.0.1") -> int:
        """Answer on ``http://address:port/metrics`` until ``stop``; returns the port, for 0 any free one.

        Raises
        ------
        ConfigError : not a loopback address. ServiceError : the port is taken.
        """
        host = check_loopback(address, "metrics")
        try:
            server, thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            hint = "another instance or program uses this port; choose another, or 0 for any"
            where = f"metrics {address}:{port}"
            raise ServiceError("the port cannot be opened", where=where, found=error, hint=hint) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop_server = stop
        return int(server.server_port)

    def stop(self) -> None:
        """Stop answering; does nothing where ``serve`` was not called."""
        self._stop_server()
        self._stop_server = lambda: None

    # ---------------------------------------------------------------------------------------------- details

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"streamer_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"streamer_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> KnownGauge:
        return KnownGauge(self.registry, f"streamer_{name}", text, labels)

    def _bounded(self, label: str, value: str) -> str:
        """Return the value, or ``other`` once a label has taken too many."""
        seen = self._seen.setdefault(label, set())
        if value not in seen and len(seen) >= MAX_VALUES:
            return "other"
        seen.add(value)
        return value


def _observe(histogram: Histogram, value: float | None) -> None:
    """Observe a value; one that is unknown, or a duration that is negative as a clock was adjusted, is left out."""
    if value is not None and math.isfinite(value) and value >= 0:
        histogram.observe(value)
