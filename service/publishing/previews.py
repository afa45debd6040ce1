"""Small grey pictures of finished micrographs, for viewing at once: lossy, and never waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from service.wire.heartbeat import PREVIEW_BYTES, PreviewHeader
from service.wire.messages import topic
from streamer import jsontext
from streamer.runtime.clock import utc_text

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.movie_record import MovieRecord

_ROLE = "thumbnail"


def preview_of(record: MovieRecord, session_directory: Path, instance: str, now: float) -> list[bytes] | None:
    """Frames of a movie's preview: topic, header, pixels; None if it has no readable picture."""
    files = {file.role: file for file in record.outputs}
    if _ROLE not in files:
        return None
    try:
        picture = imagecodecs.png_decode((session_directory / files[_ROLE].path).read_bytes())
    except (OSError, ValueError, imagecodecs.PngError):
        return None
    step = 1
    while -(-picture.shape[0] // step) * -(-picture.shape[1] // step) > PREVIEW_BYTES:
        step += 1
    small = np.ascontiguousarray(picture[::step, ::step])
    whole = files.get("micrograph")
    pixel_size = None
    if whole is not None and whole.pixel_size and whole.shape:
        pixel_size = whole.pixel_size * whole.shape[1] / small.shape[1]
    header = PreviewHeader(
        movie_id=record.movie_id,
        revision=record.revision,
        session=record.session,
        path=record.path,
        height=small.shape[0],
        width=small.shape[1],
        pixel_size=pixel_size,
        t_utc=utc_text(now),
    )
    return [topic(instance, "preview", record.session), jsontext.shown(header), small.tobytes()]
