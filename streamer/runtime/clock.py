"""Time from one place. A clock is passed in, never called by name: a test or a simulation brings its own.

Wall-clock time may be set back or forward: it only dates records. To wait or to measure, use ``monotonic``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def wall(self) -> float:
        """UTC seconds since 1970; may jump."""

    def monotonic(self) -> float:
        """Seconds since some moment; only ever forward."""

    def sleep(self, seconds: float) -> None:
        """Return after this time."""


class SystemClock:
    """The machine's own time."""

    def wall(self) -> float:
        """See ``Clock``."""
        return time.time()

    def monotonic(self) -> float:
        """See ``Clock``."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See ``Clock``."""
        time.sleep(seconds)


SYSTEM = SystemClock()


def utc_text(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_seconds(text: str) -> float:
    """Seconds since 1970 from ISO 8601; a time without a zone is UTC."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
