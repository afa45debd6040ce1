"""The reference downstream picker: a subscriber with a cursor that writes RELION particle coordinates.

For each finished movie it reads the restored image, finds particles, and writes ``<session>/picks/<path of the
micrograph>_autopick.star``, where RELION looks for it. A movie whose halves show no signal gets no picks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import torch

from service.wire.messages import Event, movie_record
from streamer.errors import StreamerError, UsageError
from streamer.pick import Picks, pick
from streamer.writers.atomic import write_atomically
from streamer.writers.star import coordinates_star

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from service.client import Client, Cursor
    from streamer.movie_record import MovieRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What was found in one micrograph."""

    movie_id: str
    micrograph: str
    """Relative to the session's directory."""
    coordinates: str
    particles: int


def follow(
    client: Client,
    cursor: Cursor,
    output: Path,
    *,
    diameter: float,
    threshold: float = 1.0,
    stop: threading.Event | None = None,
    idle_timeout: float | None = None,
    lost_timeout: float | None = None,
) -> Iterator[Picked | StreamerError]:
    """Pick particles in every movie that finishes; one that cannot be picked yields its error, and the next follows.

    Parameters
    ----------
    output : directory that contains the sessions.
    diameter : of the particle, Å.
    threshold : see ``streamer.pick.pick``.
    idle_timeout, lost_timeout : see ``Client.events``; a daemon that is lost raises ServiceError.
    """
    for event in client.events(cursor, stop=stop, idle_timeout=idle_timeout, lost_timeout=lost_timeout):
        if event.kind != "movie" or event.body.get("state") != "done":
            continue
        try:
            yield pick_movie(event, output, diameter=diameter, threshold=threshold)
        except StreamerError as error:
            yield error


def pick_movie(event: Event, output: Path, *, diameter: float, threshold: float = 1.0) -> Picked:
    """Pick particles in the micrograph of one movie event and write their coordinates."""
    record = movie_record(event)
    files = {file.role: file for file in record.outputs}
    if "denoised" not in files or "micrograph" not in files:
        raise UsageError(
            "the event names no restored image",
            where=record.movie_id,
            hint="process the movie again: streamer movies retry",
        )
    session = output / record.session
    image_file, micrograph = files["denoised"], Path(files["micrograph"].path)
    if image_file.pixel_size is None:
        raise UsageError(
            "the event does not tell the image's pixel size",
            where=record.movie_id,
            hint="process the movie again: streamer movies retry",
        )
    found = _picks(session / image_file.path, record, image_file.pixel_size, diameter, threshold)
    coordinates = session / "picks" / micrograph.parent / f"{micrograph.stem}_autopick.star"
    write_atomically(coordinates, coordinates_star(found.x, found.y, found.score).encode())
    return Picked(
        movie_id=record.movie_id, micrograph=str(micrograph), coordinates=str(coordinates), particles=len(found.x)
    )


def _picks(path: Path, record: MovieRecord, pixel_size: float, diameter: float, threshold: float) -> Picks:
    """Particles in one image; none where there is no signal."""
    if record.restoration == "none":
        return Picks(x=[], y=[], score=[])
    try:
        with mrcfile.open(str(path)) as file:
            image = torch.from_numpy(np.asarray(file.data, dtype=np.float32))
        return pick(image, pixel_size, diameter, threshold=threshold)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot be picked: {error}",
            where=path,
            hint="is the file still there? streamer movies retry makes it again",
        ) from error
