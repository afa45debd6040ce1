"""Finds the sidecar of a movie where it does not lie next to it under its name.

EPU names an exposure ``FoilHole_<hole>_Data_<template>_<acquisition>_<date>_<time>``. The movie may be on a different
disk from the session's directory, and its time may be that of the camera's computer: they are then matched by hole,
template and acquisition, and by time only where a hole was exposed more than once. Ambiguous matches are not guessed.
For other movies there may be an ``.mdoc`` of all of them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import MovieMismatch
from streamer.metadata import epu
from streamer.metadata.shared_mdoc import SharedMdocs
from streamer.metadata.sidecars import read_recorded, read_sidecar, read_xml, with_position
from streamer.readers.files import entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.movie_record import Acquisition

_EXPOSURE = re.compile(r"(FoilHole_[^_]+_Data_[^_]+_[^_]+)_(\d{8})_(\d{6})", re.IGNORECASE)
_NEAR = timedelta(minutes=2)
"""Clocks of a microscope's computers differ by less than this; a hole is not exposed twice within it."""
_MOST_DIRECTORIES = 100_000


class SidecarSearch:
    """Reads the sidecar of a movie: the one next to it, else that of its exposure below the metadata root."""

    def __init__(self, metadata_root: str | None = None) -> None:
        """Also look below ``metadata_root``; directories are listed again only when they change."""
        self._root = None if metadata_root is None else Path(metadata_root)
        self._shared = SharedMdocs()
        self._seen: dict[Path, tuple[int, list[Path], list[Path]]] = {}

    def __call__(self, movie: Path) -> Acquisition | None:
        """Content of the sidecar, None where there is none; raises as ``read_sidecar``, and for ambiguous matches."""
        found = read_sidecar(movie)
        if found is not None and found.pixel_size is not None:
            return found
        exposure = _EXPOSURE.fullmatch(epu.exposure_stem(movie.stem))
        if exposure is None:
            return found or self._shared(movie)
        recorded = read_recorded(movie)
        # the camera's list of fractions may lie next to the movie, and EPU's document elsewhere
        if found is not None and found != _alone(recorded, movie):
            return found
        places = [movie.parent] if self._root is None else [movie.parent, *self._below(self._root)]
        path = _the_one(movie, exposure, [path for place in places for path in self._listed(place)[0]])
        requested = None if path is None else read_xml(path)
        image = None if requested is None else epu.merge(requested, recorded)
        if path is None or image is None:
            return found
        position = with_position(image, path.as_posix())
        own = with_position(image, movie.as_posix())
        return replace(own, grid_square=own.grid_square or position.grid_square, sidecar=path.name)

    def _below(self, root: Path) -> Iterator[Path]:
        waiting, count = [root], 0
        while waiting and count < _MOST_DIRECTORIES:
            place = waiting.pop()
            count += 1
            yield place
            waiting += self._listed(place)[1]

    def _listed(self, place: Path) -> tuple[list[Path], list[Path]]:
        """XML files of exposures in a directory, and the directories in it."""
        try:
            changed = place.stat().st_mtime_ns
            known = self._seen.get(place)
            if known is not None and known[0] == changed:
                return known[1], known[2]
            files, directories = [], []
            with entries(place) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            directories.append(place / entry.name)
                    elif entry.name.lower().endswith(".xml") and entry.name.lower().startswith("foilhole_"):
                        files.append(place / entry.name)
        except OSError:
            # it comes back, or the movie is processed without it
            return [], []
        self._seen[place] = (changed, files, sorted(directories))
        return files, sorted(directories)


def _alone(recorded: Acquisition | epu.Recorded | None, movie: Path) -> Acquisition | None:
    """What a movie's sidecar says where the camera's list is all that lies next to it."""
    return with_position(recorded.acquisition, movie.as_posix()) if isinstance(recorded, epu.Recorded) else None


def _the_one(movie: Path, exposure: re.Match[str], files: list[Path]) -> Path | None:
    """The XML file of the same exposure."""
    fitting = [(match, path) for path in files if (match := _EXPOSURE.fullmatch(path.stem)) and match[1] == exposure[1]]
    same_time = [path for match, path in fitting if match.groups() == exposure.groups()]
    near = [path for match, path in fitting if abs(_time(match) - _time(exposure)) <= _NEAR]
    for candidates in (same_time, near, [path for _, path in fitting]):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise MovieMismatch(
                "several sidecars could belong to it",
                where=movie,
                expected=f"one for {exposure[1]}",
                found=", ".join(path.name for path in sorted(candidates)[:4]),
                hint="the hole was exposed more than once; set the values in [movie], or put the XML next to the movie",
            )
    return None


def _time(exposure: re.Match[str]) -> datetime:
    try:
        return datetime.strptime(exposure[2] + exposure[3], "%Y%m%d%H%M%S")  # noqa: DTZ007 - local, as it is written
    except ValueError:
        return datetime.min  # noqa: DTZ901 - far from every other
