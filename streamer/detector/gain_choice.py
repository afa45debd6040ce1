"""Which gain reference a movie is multiplied with: the one that is set, or "none" at all, else the nearest above it.

Above means in the movie's own directory or in one of its parents up to the watched root, so that sessions with
references of their own do not mix; of a movie that is a link, the directories that it leads to are searched next. Where
there is none, a single one anywhere below the root is used. A reference that cannot be read is never passed over: the
next one might be another session's.

Where there are several, the one is used that the movie's sidecar names, else the one that the movie itself names, as
EER movies do: the nearest of this name above the movie. Names are compared without suffix, as the named one may have
been converted. What the sidecar names is a reference whatever its name. A reference that nobody names is used where it
is the only one in the nearest place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import ConfigError
from streamer.readers.eer_metadata import gain_named_by
from streamer.readers.files import FOLLOW_HINT, below, link_target
from streamer.readers.gain import gain_candidates, gains_in, named_among, named_in
from streamer.runtime.clock import SYSTEM
from streamer.settings import NO_GAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.runtime.clock import Clock

_Place = tuple[Path, list[Path]]
"""A directory and the references in it."""
_Stamps = tuple[tuple[int, int] | None, ...]

_LOOK_SHARE = 0.05
"""Share of the time that searching the whole tree for a gain may take."""


class GainChoice:
    """Chooses for each movie; directories are read again only when they change."""

    def __init__(self, root: Path, setting: str | None, clock: Clock = SYSTEM, places: tuple[str, ...] = ()) -> None:
        """Check the gain that is set, if any; raises ConfigError if it does not exist.

        Parameters
        ----------
        places : directories outside the root to which links may lead.
        """
        self._root, self._clock, self._places = root, clock, places
        self._wanted = setting != NO_GAIN
        self._set = None if setting is None or not self._wanted else Path(setting).absolute()
        if self._set is not None and self._set.is_symlink():
            self._set = self._set.resolve()  # who names a file may name a link to it
        if self._set is not None and not self._set.is_file():
            raise ConfigError(
                "the gain reference does not exist",
                where="movie.gain",
                found=self._set,
                hint="correct movie.gain, or leave it out to use the one beside the movies",
            )
        self._seen: dict[Path, tuple[int, list[Path], _Stamps]] = {}
        self._elsewhere: tuple[list[Path], _Stamps] = ([], ())
        self._next_look = -float("inf")

    def for_movie(self, movie: Path, named: str | None = None) -> Path | None:
        """Gain of a movie below the root, or None.

        Parameters
        ----------
        named : base name that the movie's sidecar gives; decides between several.

        Raises
        ------
        ConfigError
            Several references could apply.
        """
        if self._set is not None or not self._wanted:
            return self._set
        with below(self._root, self._places):
            return _followed(self._chosen(movie, named))

    def _chosen(self, movie: Path, named: str | None) -> Path | None:
        above = ((place, found) for place in self._above(movie) if (found := self._in(place, named)))
        if (nearest := next(above, None)) is not None:
            return _the_one(nearest, above, named, movie)
        if self._clock.monotonic() >= self._next_look or _stamps(self._elsewhere[0]) != self._elsewhere[1]:
            began = self._clock.monotonic()
            found = gain_candidates(self._root, self._places)
            self._elsewhere = (found, _stamps(found))
            self._next_look = began + (self._clock.monotonic() - began) / _LOOK_SHARE
        elsewhere = self._elsewhere[0]
        return _the_one((self._root, elsewhere), iter(()), named, movie) if elsewhere else None

    def _above(self, movie: Path) -> Iterator[Path]:
        """Directories above a movie, nearest first: as it is seen from the root, then where it really is."""
        yield from (directory for directory in movie.parents if directory.is_relative_to(self._root))
        target = link_target(movie)
        if target is not None:
            for directory in target.parents:
                if any(directory.is_relative_to(os.path.realpath(place)) for place in self._places):
                    yield directory

    def _in(self, directory: Path, named: str | None) -> list[Path]:
        usual = self._of_usual_names(directory)
        # "K3_300kV.mrc" is a reference where the sidecar says so
        return usual if named_among(usual, named) else sorted({*usual, *named_in(directory, named)})

    def _of_usual_names(self, directory: Path) -> list[Path]:
        try:
            changed = directory.stat().st_mtime_ns
            known = self._seen.get(directory)
            # a movie of which only the first frame was there grows without a change of its directory
            if known is None or known[0] != changed or _stamps(known[1]) != known[2]:
                found = gains_in(directory)
                self._seen[directory] = (changed, found, _stamps(found))
        except FileNotFoundError:
            return []
        except OSError as error:
            # the next directory up might contain another session's: better to wait
            what = f"a directory cannot be searched for gain references: {error.strerror}"
            raise ConfigError(
                what, where=directory, hint="give the daemon's user the right to list it, or set movie.gain"
            ) from error
        return self._seen[directory][1]


def _stamps(paths: list[Path]) -> _Stamps:
    """Size and time of each file, None for one that is not there."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            status = path.lstat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)


def _followed(gain: Path | None) -> Path | None:
    """The same; raises ConfigError for a link that is not followed."""
    if gain is not None and gain.is_symlink() and link_target(gain) is None:
        raise ConfigError(
            "the gain reference is a link that is not followed", where=gain, found=gain.readlink(), hint=FOLLOW_HINT
        )
    return gain


def _the_one(nearest: _Place, farther: Iterator[_Place], named: str | None, movie: Path) -> Path:
    """The reference that is named, nearest first, else the only one in the nearest place.

    Places that are farther are looked into only where the nearest leaves a choice.
    """
    where, candidates = nearest
    if len(candidates) == 1 and (named is None or named_among(candidates, named)):
        return candidates[0]
    places = [nearest, *farther]
    if (found := _means_one(places, named)) is not None:
        return found
    own = gain_named_by(movie)
    if (found := _means_one(places, own)) is not None:
        return found
    if len(candidates) == 1:
        return candidates[0]
    told = named or own
    raise ConfigError(
        "several gain references could apply",
        where=where,
        expected="one" if told is None else f"one, or {told}",
        found=", ".join(str(path) for path in candidates),
        hint="set movie.gain to the right one, or leave only that one there",
    )


def _means_one(places: list[_Place], name: str | None) -> Path | None:
    """The only one of this name in the nearest place that has any."""
    for _, candidates in places:
        if found := named_among(candidates, name):
            return found[0] if len(found) == 1 else None
    return None
