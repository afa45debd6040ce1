"""Particles that a picker hands in: coordinates written next to the outputs, and an event that announces them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.wire.messages import PicksMade
from streamer.errors import UsageError
from streamer.writers.atomic import write_atomically
from streamer.writers.star import coordinates_star

if TYPE_CHECKING:
    from service.journal.journal import Journal
    from service.layout import Layout
    from service.wire.requests import Picks


def take_picks(journal: Journal, layout: Layout, picks: Picks) -> dict[str, Any]:
    """Write ``<session>/picks/<path of the micrograph>_<picker>.star``, then announce it; returns the event's number.

    Raises
    ------
    UsageError : the movie is not done at this revision, or a particle lies outside its micrograph.
    OutputError : the file cannot be written.
    """
    movie = journal.movie(picks.movie_id, picks.revision)
    record = None if movie is None or movie.state != "done" else movie.record
    if record is None:
        found = "unknown" if movie is None else movie.state
        where = f"{picks.movie_id} r{picks.revision}"
        raise UsageError(
            "picks for a movie that is not done",
            where=where,
            expected="done",
            found=found,
            hint="hand picks in after the event that says done",
        )
    image = next(file for file in record.outputs if file.role == "micrograph")
    height, width = image.shape or [0, 0]
    for x, y in picks.coordinates:
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(
                "a particle lies outside the micrograph",
                where=image.path,
                expected=f"x below {width} and y below {height} px",
                found=f"{x:g}, {y:g}",
                hint="give pixels of the micrograph as written, counted from its lower left corner",
            )
    place = Path("picks") / Path(image.path).parent / f"{Path(image.path).stem}_{picks.picker}.star"
    n = len(picks.coordinates)
    columns = [x for x, _ in picks.coordinates], [y for _, y in picks.coordinates]
    text = coordinates_star(*columns, picks.scores or [0.0] * n).encode()
    write_atomically(layout.session_output(record.session) / place, text)
    made = PicksMade(
        movie_id=record.movie_id,
        revision=record.revision,
        picker=picks.picker,
        n=n,
        diameter_angstrom=picks.diameter_angstrom,
        path=place.as_posix(),
        sha256=hashlib.sha256(text).hexdigest(),
    )
    return {"seq": journal.events.append(made, record.session).seq}
