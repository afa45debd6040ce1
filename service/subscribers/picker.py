"""The reference downstream picker: a subscriber with a cursor that writes RELION particle coordinates.

For each finished movie it reads the plain sum and its halves, finds what is not specimen and then particles, and writes
``<session>/picks/<path of the micrograph>_autopick.star``, where RELION looks for it. A movie whose halves show no
signal, or that is empty beside the session's others, gets no picks. Why the plain sum and not the restored image: a
network may draw a faint blob where there is none, and the level comes from the image's own noise, which a restored
image has no longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import torch

from service.wire.messages import Event, movie_record
from streamer import fourier
from streamer.errors import StreamerError, UsageError
from streamer.picking.pick import Picks, pick
from streamer.quality.not_specimen import find_not_specimen
from streamer.records import HalfSums
from streamer.writers.atomic import write_atomically
from streamer.writers.star import ROLE_EVEN, ROLE_MICROGRAPH, ROLE_ODD, coordinates_star

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from service.client import Client, Cursor

_ROLES = (ROLE_MICROGRAPH, ROLE_EVEN, ROLE_ODD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What was found in one micrograph."""

    movie_id: str
    micrograph: str
    """Relative to the session's directory."""
    coordinates: str
    particles: int
    not_specimen: float = 0.0
    """Share of the field that was left out: crystals, carbon, gold, holes; 0 to 1."""
    note: str | None = None
    """Why there are no particles; None: there are some."""


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
    threshold : see ``streamer.picking.pick.pick``.
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
    missing = [role for role in _ROLES if role not in files]
    if missing:
        raise UsageError(
            f"the event names no image of these kinds: {', '.join(missing)}",
            where=record.movie_id,
            hint="process the movie again: streamer movies retry",
        )
    session, micrograph = output / record.session, Path(files[ROLE_MICROGRAPH].path)
    pixel_size = files[ROLE_MICROGRAPH].pixel_size
    if pixel_size is None:
        raise UsageError(
            "the event does not tell the image's pixel size",
            where=record.movie_id,
            hint="process the movie again: streamer movies retry",
        )
    nothing = record.metrics.empty if record.metrics is not None else None
    has_pattern = record.metrics is not None and bool(record.metrics.pattern_may_raise)
    if nothing is None and record.restoration == "none":
        nothing = "the halves show no signal"
    found, left_out, note = Picks(x=[], y=[], score=[]), 0.0, nothing or ""
    if nothing is None:
        images = [_image(session / files[role].path) for role in _ROLES]
        try:
            found, left_out, note = _picks(images, pixel_size, diameter, threshold, has_pattern=has_pattern)
        except ValueError as error:
            raise UsageError(
                f"cannot be picked: {error}", where=session / micrograph, hint="give a smaller --diameter, in Å"
            ) from error
    coordinates = session / "picks" / micrograph.parent / f"{micrograph.stem}_autopick.star"
    write_atomically(coordinates, coordinates_star(found.x, found.y, found.score).encode())
    return Picked(
        movie_id=record.movie_id,
        micrograph=str(micrograph),
        coordinates=str(coordinates),
        particles=len(found.x),
        not_specimen=left_out,
        note=None if found.x else note,
    )


def _picks(
    images: list[torch.Tensor], pixel_size: float, diameter: float, threshold: float, *, has_pattern: bool
) -> tuple[Picks, float, str]:
    """Particles in a sum with its halves, the share of the field that was left out, and what to say if there are none.

    Raises
    ------
    ValueError : the diameter does not fit into the image.
    """
    whole, even, odd = images
    shape = (int(whole.shape[0]), int(whole.shape[1]))
    halves = HalfSums(
        even=torch.fft.rfft2(even),
        odd=torch.fft.rfft2(odd),
        even_share=torch.full((fourier.ring_count(shape),), 0.5, dtype=torch.float64),
        shape=shape,
        pixel_size=pixel_size,
    )
    field = find_not_specimen(halves, has_pattern=has_pattern)
    usable = None if field.is_clean else ~field.at(shape)
    found = pick(whole, pixel_size, diameter, threshold=threshold, usable=usable)
    if field.is_clean:
        return found, 0.0, "nothing stands out of the noise as particles of this diameter would"
    there = " and ".join(f"{share:.0%} {kind}" for kind, share in field.shares.items())
    return found, 1.0 - field.usable, f"nothing stands out as particles would, beside {there}"


def _image(path: Path) -> torch.Tensor:
    """(h, w) float32 of an MRC file."""
    try:
        with mrcfile.open(str(path)) as file:
            return torch.from_numpy(np.array(file.data, dtype=np.float32))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot be picked: {error}",
            where=path,
            hint="is the file still there? streamer movies retry makes it again",
        ) from error
