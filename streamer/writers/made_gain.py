"""A gain reference made from movies, as a file: an MRC image that the reader takes as it is meant, and its worth.

It is written so that frames read with the same settings need nothing else: turned back where the settings turn, and as
an image of the beam where they divide, as RELION does with EER movies. Beside it, ``<stem>.json`` says how it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from streamer import jsontext
from streamer.detector.orientation import divides, unturned
from streamer.readers.gain import MADE
from streamer.records import Gain
from streamer.writers.atomic import write_atomically
from streamer.writers.mrc import encode_image

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.detector.gain_from_movies import MadeGain
    from streamer.records import MovieHeader
    from streamer.settings import GainSettings


class MadeGainFile(Struct, frozen=True, kw_only=True):
    """What stands beside a gain reference that was made from movies."""

    gain: str
    """Name of the file."""
    sense: str
    """``multiply`` frames by it, or ``divide`` them."""
    height: int
    width: int
    movies: int
    """Number of movies that it was made from."""
    spread: float
    """Relative standard deviation of the detector's pattern from pixel to pixel."""
    left: float
    """The same of what is expected to stay in frames corrected with it."""
    certainty: float
    """Correlation expected between it and one made from as many other movies: 0 noise, 1 pattern."""
    movies_needed: int
    """From so many movies nothing stays that changes a figure noticeably; 0: the pattern is too weak to matter."""
    made_from: list[str] = []
    """The movies."""


def made_gain_name(movies: int) -> str:
    """Name of a session's gain reference that is made from so many movies."""
    return f"from-{movies:05d}-movies.mrc"


def is_made_gain(path: Path) -> bool:
    """Whether a file has the name of a gain reference that the daemon made from movies."""
    return path.match("from-*-movies.mrc")


def newest_made_gain(directory: Path) -> Path | None:
    """The gain reference of a directory that was made from the most movies."""
    return max(directory.glob("from-*-movies.mrc"), key=lambda path: path.name, default=None)


def about_made_gain(path: Path) -> MadeGainFile | None:
    """What stands beside a gain reference that was made from movies; None where nothing can be read."""
    try:
        return jsontext.decode(path.with_suffix(".json").read_bytes(), MadeGainFile)
    except (OSError, ValueError):
        return None


def write_made_gain(
    path: Path, made: MadeGain, header: MovieHeader, settings: GainSettings, made_from: list[str]
) -> MadeGainFile:
    """Write a gain reference and what it is worth, the image last; raises OutputError.

    Parameters
    ----------
    path : an ``.mrc`` file.
    header : of the movies.
    settings : with which frames will be corrected by it.
    made_from : the movies, for the file beside it.
    """
    values = made.values
    is_divided = divides(Gain(path=str(path), sha256="", values=values, is_multiplicative=False), header, settings)
    if is_divided:
        good = values > 0
        values = np.divide(1.0, values, out=np.zeros_like(values), where=good).astype(np.float32)
    values = unturned(values, settings.rotate, settings.flip)
    sense = "divide" if is_divided else "multiply"
    about = MadeGainFile(
        gain=path.name,
        sense=sense,
        height=int(values.shape[0]),
        width=int(values.shape[1]),
        movies=made.movies,
        spread=_rounded(made.spread),
        left=_rounded(made.left),
        certainty=_rounded(made.certainty),
        movies_needed=made.movies_needed,
        made_from=made_from,
    )
    labels = [
        f"{MADE} {made.movies} movies; {sense} frames{'' if is_divided else ' by it'}",
        f"pattern {made.spread:.2%}, expected to stay {made.left:.2%}, certainty {made.certainty:.2f}",
    ]
    write_atomically(path.with_suffix(".json"), jsontext.encode(about))
    write_atomically(path, encode_image(values, pixel_size=header.pixel_size or 1.0, labels=labels))
    return about


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
