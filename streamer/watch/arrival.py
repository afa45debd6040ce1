"""What the watcher hands over: a movie that is whole, or a file that is none or will not become one, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.errors import StreamerError
    from streamer.records import Movie, MovieHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A movie that is complete, or one that certainly will not become so by waiting."""

    movie: Movie
    header: MovieHeader | None
    error: StreamerError | None
    """Why it cannot be processed; ``MovieNotReady``: it has not changed for too long and is still incomplete."""
    detected_utc: str
    ready_utc: str
    waited_s: float
    """Since it was first seen."""
    still_s: float
    """Since its last change: how long the file has been complete."""
    found_at_start: bool = False
    """Whether the file existed at the first look."""
    fingerprint: str | None = None
    """Hash of the size and of the first and last MiB, where requested."""
