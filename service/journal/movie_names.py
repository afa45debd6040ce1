"""Which movie somebody means: by its path, its file name or its hole."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from streamer.errors import UsageError
from streamer.metadata import epu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fits = Callable[["KnownMovie"], bool]

_MOST_LISTED = 10
_MOST_COMPARED = 5000
"""Names, the newest, among which similar ones are searched: it takes a millisecond for each ten."""
_LEAST_SQUARE = 4
"""Last characters of a grid square that stand for it; the monitor shows that many."""
_SQUARE = re.compile(r"(?:GridSquare_)?([^/]+)", re.IGNORECASE)
_HOLE = re.compile(r"(?:FoilHole_)?([^/_]+)", re.IGNORECASE)
_OUTPUT = re.compile(r"(?:.*/)?movies/(.+)/r\d+(?:/[^/]*)?", re.DOTALL)
_WINDOWS = re.compile(r"(?:[a-z]:|\\)[\\/]", re.IGNORECASE)
_SUFFIXES = frozenset({".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".mdoc", ".xml"})


class KnownMovie(NamedTuple):
    """A movie of the journal, as far as it can be meant."""

    movie_id: str
    relative: str
    """Path below the watched root, with slashes."""
    path: str


def movie_named(name: str, known: Sequence[KnownMovie]) -> KnownMovie:
    """The movie that is meant.

    Parameters
    ----------
    name : path, absolute, below the watched root or any end of it, the suffix may be left out; path of one of its
        outputs; EPU's hole, ``FoilHole_123456`` or ``123456``, also with its grid square or the end of it before it;
        path on the camera's computer, a Windows one. A name with its suffix means no other one.
    known : newest first.

    Raises
    ------
    UsageError
        There is none, with the most similar names, or there are several, with the list.
    """
    if _WINDOWS.match(name):
        return movie_named(_end_known(name, known), known)
    for fits in (_path(name), _end_of_path(name, lambda part: part), _end_of_path(name), _exposure(name), _hole(name)):
        found = [movie for movie in known if fits(movie)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{movie.relative} ({movie.movie_id})" for movie in found[:_MOST_LISTED])
            more = len(found) - _MOST_LISTED
            raise UsageError(
                f"{len(found)} movies have this name",
                where=name,
                expected="a name that only one has",
                found=f"{listed} and {more} more" if more > 0 else listed,
                hint="give more of the path, or the id",
            )
    raise UsageError("the journal does not know this movie", where=name, hint=_similar(name, known))


def _path(name: str) -> Fits:
    output = _OUTPUT.fullmatch(name)
    whole = {os.path.abspath(name), os.path.realpath(name)}  # noqa: PTH100 - links are taken both ways
    relative = {name, output[1]} if output else {name}
    return lambda movie: movie.relative in relative or movie.path in whole


def _end_known(name: str, known: Sequence[KnownMovie]) -> str:
    """The longest end of a Windows path that movies have; its file name where none has any."""
    parts = name.replace("\\", "/").split("/")[1:]
    ends = ("/".join(parts[start:]) for start in range(len(parts) - 1))
    return next((end for end in ends if any(map(_end_of_path(end), known))), parts[-1])


def _end_of_path(name: str, of: Callable[[str], str] | None = None) -> Fits:
    """``of``: what of a file name is compared; None: all but its suffix."""
    of = of or _stem
    asked = PurePosixPath(name.casefold()).parts

    def fits(movie: KnownMovie) -> bool:
        parts = movie.relative.casefold().split("/")
        if not asked or len(asked) > len(parts) or list(asked[:-1]) != parts[len(parts) - len(asked) : -1]:
            return False
        return of(asked[-1]) == of(parts[-1])

    return fits


def _exposure(name: str) -> Fits:
    """Whether it is the name of EPU's exposure, without ``_Fractions``."""
    asked = _stem(name.casefold())

    def fits(movie: KnownMovie) -> bool:
        base = _stem(movie.relative.rsplit("/", 1)[-1].casefold())
        return epu.is_fractions(base) and asked == epu.exposure_stem(base)

    return fits


def _hole(name: str) -> Fits:
    *before, last = name.split("/")
    before = [part for part in before if part.casefold() != "data"]
    asked, asked_square = _HOLE.fullmatch(last), _SQUARE.fullmatch(before[-1]) if before else None

    def fits(movie: KnownMovie) -> bool:
        square, hole, _ = epu.position(movie.relative)
        if asked is None or hole is None or asked[1].casefold() != hole.casefold():
            return False
        if asked_square is None or square is None:
            return not before
        end = asked_square[1]
        return square == end or (len(end) >= _LEAST_SQUARE and square.endswith(end))

    return fits


def _stem(name: str) -> str:
    """File name without a suffix that movies, their sidecars and micrographs have."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, no path
    return stem if suffix in _SUFFIXES else name


def _similar(name: str, known: Sequence[KnownMovie]) -> str:
    """Hint with the names that come near."""
    bases = [movie.relative.rsplit("/", 1)[-1] for movie in known[:_MOST_COMPARED]]
    holes = [f"FoilHole_{hole}" for hole in (epu.position(base)[1] for base in bases) if hole]
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1], [*dict.fromkeys((*bases, *holes))], n=3, cutoff=0.6)
    known_ones = "streamer movies list shows those it knows"
    return f"did you mean {' or '.join(close)}? {known_ones}" if close else known_ones
