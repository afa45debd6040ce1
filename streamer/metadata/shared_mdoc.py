"""One ``.mdoc`` for many movies: SerialEM appends a frame set for each exposure, or a section for each tilt.

Its name is the operator's choice, so it is found by what it contains. Only files next to the movie are looked at that
do not have the name of another image there, and each of them is read again only when it changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.errors import MovieError
from streamer.metadata.sidecars import about, read_mdoc
from streamer.readers.files import entries

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.metadata import mdoc
    from streamer.movie_record import Acquisition

_ENDING = ".mdoc"


class SharedMdocs:
    """Finds the section of a movie; what is not found, or cannot be read at present, is None."""

    def __init__(self) -> None:
        self._listed: dict[Path, tuple[int, list[Path]]] = {}
        self._known: dict[Path, tuple[tuple[int, int], mdoc.Document]] = {}

    def __call__(self, movie: Path) -> Acquisition | None:
        """What the section that names this movie says; of several files that name it, the last by name."""
        for path in reversed(self._in(movie.parent)):
            document = self._read(path)
            if document is not None and document.names_movie(movie.name):
                return about(document, path, movie.name)
        return None

    def _in(self, place: Path) -> list[Path]:
        """Files of a directory that may be about many movies, sorted."""
        try:
            changed = place.stat().st_mtime_ns
            if place not in self._listed or self._listed[place][0] != changed:
                with entries(place) as found:
                    names = {entry.name for entry in found}
                shared = [
                    name for name in names if name.lower().endswith(_ENDING) and name[: -len(_ENDING)] not in names
                ]
                self._listed[place] = changed, sorted(place / name for name in shared)
        except OSError:
            # it comes back, or the movie is processed without it
            return []
        return self._listed[place][1]

    def _read(self, path: Path) -> mdoc.Document | None:
        try:
            state = path.stat()
            version = state.st_size, state.st_mtime_ns
            if path not in self._known or self._known[path][0] != version:
                document = read_mdoc(path)
                if document is None:
                    return None
                self._known[path] = version, document
        except (OSError, MovieError):
            # a damaged one may be about other movies: it stops none
            return None
        return self._known[path][1]
