"""The daemon's state: rates, latencies, alarms, and the heartbeat made from them."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from service.wire.heartbeat import Heartbeat
from streamer.runtime.clock import SYSTEM, utc_seconds

if TYPE_CHECKING:
    from service.wire.messages import Alert
    from streamer.movie_record import MovieRecord
    from streamer.runtime.clock import Clock

_HOUR_S = 3600.0


class Status:
    """Rates and latencies of the recent past."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._done: deque[float] = deque()
        self._latencies: deque[float] = deque(maxlen=200)

    def finished(self, record: MovieRecord) -> float | None:
        """Count a finished movie; returns its latency from being complete, in s."""
        if record.state != "done":
            return None
        self._done.append(self._clock.monotonic())
        since, until = record.times.complete, record.times.done
        if since is None or until is None:
            return None
        latency = utc_seconds(until) - utc_seconds(since)
        if latency >= 0.0:
            self._latencies.append(latency)
        return latency

    def uptime_s(self) -> float:
        """Time since the start, s."""
        return self._clock.monotonic() - self._began

    def movies_per_hour(self) -> float | None:
        """Rate over the last hour, or over the time since the first movie if that is shorter."""
        now = self._clock.monotonic()
        while self._done and self._done[0] < now - _HOUR_S:
            self._done.popleft()
        if len(self._done) < 2:
            return None
        return (len(self._done) - 1) / max(1e-3, now - self._done[0]) * _HOUR_S

    def latency(self, share: float) -> float | None:
        """Quantile of the latest latencies, s."""
        if not self._latencies:
            return None
        ordered = sorted(self._latencies)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    def heartbeat(
        self,
        *,
        state: str,
        session: str,
        watching: str,
        device: str,
        counts: dict[str, int],
        settling: int,
        oldest_pending: float | None,
        model_version: str | None,
        specimen: int,
        empty_in_a_row: int,
        training: bool,
        disk_free_bytes: dict[str, int],
        alarms: list[Alert],
        shedding: tuple[str, ...] = (),
        skipped: dict[str, int] | None = None,
    ) -> Heartbeat:
        """Put everything together."""
        pending = counts.get("ready", 0) + counts.get("started", 0)
        return Heartbeat(
            state=state,
            session=session,
            watching=watching,
            device=device,
            uptime_s=round(self.uptime_s(), 1),
            pending=pending,
            settling=settling,
            oldest_pending_s=None if oldest_pending is None else max(0.0, self._clock.wall() - oldest_pending),
            model_version=model_version,
            rates={
                "movies_per_hour": self.movies_per_hour(),
                "training": float(training),
                "specimen": float(specimen),
                "empty_in_a_row": float(empty_in_a_row),
            },
            latency_p50_s=self.latency(0.5),
            latency_p95_s=self.latency(0.95),
            disk_free_bytes=disk_free_bytes,
            alarms=alarms,
            counts=counts,
            shedding=list(shedding),
            skipped=skipped or {},
        )
