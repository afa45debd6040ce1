"""What the daemon and its child processes say to each other, as typed messages."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from service.config import Config
from streamer.errors import Handling, Reason
from streamer.movie_record import DENOISER, MovieRecord, Times
from streamer.records import Instructions, Movie


class Begin(Struct, tag=True, frozen=True, kw_only=True):
    """First line to any child."""

    config: Config
    session_directory: str = ""
    """Of the trainer: where versions are kept."""
    specimen: int = 1
    """Of the trainer: which of the session's specimens it learns from."""
    warm: str | None = None
    """Of the trainer: version of another specimen whose weights it continues from while nothing serves."""


class Work(Struct, tag=True, frozen=True, kw_only=True):
    """One movie to process."""

    movie: Movie
    times: Times
    instructions: Instructions
    gain: str | None = None
    """Path of the gain reference."""
    made_gains: str | None = None
    """The session's directory for gains made from its movies; None: make none, or there is a recorded one."""
    model: str | None = None
    """Directory of the serving version of the denoiser."""
    super_resolution_model: str | None = None
    """Directory of the serving version for super-resolution."""
    on_cpu: bool = False
    """Whether the GPU has failed on this movie repeatedly."""


class Finish(Struct, tag=True, frozen=True):
    """Finish the movie in hand, return the others, and exit."""


class Up(Struct, tag=True, frozen=True, kw_only=True):
    """The child is ready."""

    device: str
    threads: int


class Progress(Struct, tag=True, frozen=True, kw_only=True):
    """A stage began: the child is alive."""

    movie_id: str
    revision: int
    stage: str


class Finished(Struct, tag=True, frozen=True, kw_only=True):
    """All outputs of a movie are on disk."""

    record: MovieRecord


class Failed(Struct, tag=True, frozen=True, kw_only=True):
    """A movie could not be processed."""

    movie_id: str
    revision: int
    reason: Reason
    handling: Handling
    stage: str
    stage_s: dict[str, float] = {}


class Returned(Struct, tag=True, frozen=True, kw_only=True):
    """A movie was returned untouched, because the worker exits."""

    movie_id: str
    revision: int


class Learn(Struct, tag=True, frozen=True, kw_only=True):
    """A finished movie's group sums, in the order of the session."""

    movie_id: str
    groups: str
    training_data: str | None = None
    """Sums of the fine grid, where a network on top of fusion learns."""


class Pause(Struct, tag=True, frozen=True, kw_only=True):
    """Movies are waiting (True), or no longer."""

    paused: bool


class Serving(Struct, tag=True, frozen=True, kw_only=True):
    """The operator has chosen another version to serve."""

    version: str | None


class Training(Struct, tag=True, frozen=True, kw_only=True):
    """Training began or ended."""

    active: bool


class Candidate(Struct, tag=True, frozen=True, kw_only=True):
    """The gate's decision on a candidate; a promoted one is complete in the store."""

    result: str
    version: str
    """Its name if promoted; otherwise the name it would have had."""
    reason: str
    sha256: str | None = None
    figures: dict[str, float | str | None] = {}
    network: str = DENOISER


ToChild = Begin | Work | Finish | Learn | Pause | Serving
FromChild = Up | Progress | Finished | Failed | Returned | Training | Candidate


def plain(value: Any) -> dict[str, float | str | None]:
    """Numbers and texts of a flat mapping, for figures that travel in events."""
    return {str(key): item if isinstance(item, (int, float, str)) else None for key, item in dict(value).items()}
