"""Clocks for tests: one that stands until it is set, one that asks a function, one that waiting moves on."""

import threading
from collections.abc import Callable, Mapping


class SetClock:
    """Wall and monotonic time are ``now``; to sleep moves it on."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class AskedClock:
    """Wall and monotonic time are whatever a function says; to sleep takes no time."""

    def __init__(self, ask: Callable[[], float]) -> None:
        self.wall = self.monotonic = ask

    def sleep(self, seconds: float) -> None:
        """Nothing waits in a test."""


class Timeline(threading.Event, SetClock):
    """A stop event that is also the clock: waiting lets time pass, and what is due happens meanwhile."""

    def __init__(self, end: float, script: Mapping[float, Callable[[], object]] | None = None) -> None:
        threading.Event.__init__(self)
        SetClock.__init__(self)
        self.end, self.script = end, dict(script or {})

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        for due in sorted(time for time in self.script if time <= self.now):
            self.script.pop(due)()
        if self.now > self.end:
            self.set()
        return self.is_set()
