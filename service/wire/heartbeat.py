"""What is published but not kept: the state of a daemon once a second, and previews of micrographs."""

from __future__ import annotations

from msgspec import Struct

from service.wire.messages import Alert, converted, decode_json

PREVIEW_SCHEMA = "streamer.preview/1"
PREVIEW_BYTES = 256 * 1024
"""Maximum size of a preview's pixels."""
PREVIEW_HEADER_BYTES = 4 * 1024


class Heartbeat(Struct, frozen=True, kw_only=True):
    """The state of a daemon, once a second; not durable. The publisher fills in the first four fields."""

    instance: str = ""
    epoch: str = ""
    seq: int = 0
    """Newest event that was published: a subscriber that has it has missed nothing."""
    kseq: dict[str, int] = {}
    """The same per ``kind/session``, for the 64 that changed last."""
    t_utc: str = ""
    state: str = "running"
    """starting, running, paused, stopping, ..."""
    session: str = ""
    watching: str = ""
    """Directory below which movies are expected."""
    device: str = ""
    uptime_s: float = 0.0
    pending: int = 0
    settling: int = 0
    """Files that exist but are not yet known to be complete."""
    oldest_pending_s: float | None = None
    model_version: str | None = None
    rates: dict[str, float | None] = {}
    """Rates and states by name, such as movies per hour."""
    latency_p50_s: float | None = None
    """File complete to event published."""
    latency_p95_s: float | None = None
    disk_free_bytes: dict[str, int] = {}
    alarms: list[Alert] = []
    counts: dict[str, int] = {}
    """Movies per state."""
    shedding: list[str] = []
    """Steps currently left out because movies arrive too fast: preview, denoise, super-resolution."""
    skipped: dict[str, int] = {}
    """Files below the watched root that are no movies, by what they are or by the rule that left them out."""


def parse_heartbeat(raw: bytes) -> Heartbeat:
    """Heartbeat from its bytes; fields of a newer server are ignored."""
    return converted(decode_json(raw), Heartbeat)


class PreviewHeader(Struct, frozen=True, kw_only=True):
    """What a preview shows; height times width bytes follow, the top row of the screen first."""

    schema: str = PREVIEW_SCHEMA
    movie_id: str
    revision: int
    session: str
    path: str
    """Of the movie below the watched root."""
    role: str = "thumbnail"
    height: int
    width: int
    dtype: str = "uint8"
    pixel_size: float | None = None
    """Å per pixel of the preview."""
    t_utc: str
