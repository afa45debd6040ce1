"""Which gain reference a movie is multiplied with: the one that is set, else the nearest above it.

Above means in the movie's own directory or in one of its parents up to the watched root, so that sessions with
references of their own do not mix. Where there is none, a single one anywhere below the root is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamer.errors import ConfigError
from streamer.readers.gain import gain_candidates, gains_in
from streamer.runtime.clock import SYSTEM

if TYPE_CHECKING:
    from streamer.runtime.clock import Clock

_LOOK_SHARE = 0.05
"""Share of the time that searching the whole tree for a gain may take."""


class GainChoice:
    """Chooses for each movie; directories are read again only when they change."""

    def __init__(self, root: Path, setting: str | None, clock: Clock = SYSTEM) -> None:
        """Check the gain that is set, if any; raises ConfigError if it does not exist."""
        self._root, self._clock = root, clock
        self._set = None if setting is None else Path(setting).absolute()
        if self._set is not None and not self._set.is_file():
            raise ConfigError(
                "the gain reference does not exist",
                where="movie.gain",
                found=self._set,
                hint="correct movie.gain, or leave it out to use the one beside the movies",
            )
        self._seen: dict[Path, tuple[int, list[Path]]] = {}
        self._elsewhere: list[Path] = []
        self._next_look = -float("inf")

    def for_movie(self, movie: Path, named: str | None = None) -> Path | None:
        """Gain of a movie below the root, or None.

        Parameters
        ----------
        named : base name that the movie's sidecar gives; decides between several in one directory.

        Raises
        ------
        ConfigError
            Several references could apply.
        """
        if self._set is not None:
            return self._set
        for directory in movie.parents:
            if not directory.is_relative_to(self._root):
                break
            if candidates := self._in(directory):
                return _the_one(candidates, named, directory)
        if self._clock.monotonic() >= self._next_look:
            began = self._clock.monotonic()
            self._elsewhere = gain_candidates(self._root)
            self._next_look = began + (self._clock.monotonic() - began) / _LOOK_SHARE
        return _the_one(self._elsewhere, named, self._root) if self._elsewhere else None

    def _in(self, directory: Path) -> list[Path]:
        try:
            changed = directory.stat().st_mtime_ns
            if directory not in self._seen or self._seen[directory][0] != changed:
                self._seen[directory] = (changed, gains_in(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            # the next directory up might contain another session's: better to wait
            what = f"a directory cannot be searched for gain references: {error.strerror}"
            raise ConfigError(
                what, where=directory, hint="give the daemon's user the right to list it, or set movie.gain"
            ) from error
        return self._seen[directory][1]


def _the_one(candidates: list[Path], named: str | None, where: Path) -> Path:
    if len(candidates) == 1:
        return candidates[0]
    fitting = [path for path in candidates if path.name == named]
    if len(fitting) == 1:
        return fitting[0]
    raise ConfigError(
        "several gain references could apply",
        where=where,
        expected="one" if named is None else f"one, or {named}",
        found=", ".join(str(path) for path in candidates),
        hint="set movie.gain to the right one, or leave only that one there",
    )
